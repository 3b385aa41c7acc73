"""The work of labeling photos: seconds by step, and how often the feature cache helped.

These figures travel beside the rows, and the writer adds them up for each file. So each photo is counted once, by the
attempt whose row was kept, even if a task was tried again or the display was lost.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from persam_ray.text import public

CacheOutcome = Literal["hit", "miss", "not_kept"]
"""`hit`: a photo's features were found in the cache. `miss`: they were encoded, and are kept there unless the cache
failed. `not_kept`: they were encoded, and the cache has no room for them."""


@dataclass(frozen=True)
class CacheUse:
    """How often the feature cache helped.

    Attributes:
        hits: Photos whose features were found.
        misses: Photos that were encoded.
        not_kept: Photos among the misses for whose features there was no room.
        failure: The first error of reading or writing; None if there was none.
    """

    hits: int = 0
    misses: int = 0
    not_kept: int = 0
    failure: str | None = None

    def __add__(self, other: CacheUse) -> CacheUse:
        """Return the sums; if both have a failure, the first is kept."""
        return CacheUse(
            self.hits + other.hits,
            self.misses + other.misses,
            self.not_kept + other.not_kept,
            self.failure or other.failure,
        )

    @classmethod
    def of(cls, outcomes: Iterable[CacheOutcome | None], failures: Iterable[str | None]) -> CacheUse:
        """Count the outcomes of some photos; None for a photo that was not looked up."""
        counts = Counter(outcomes)
        failure = next(filter(None, failures), None)
        misses = counts["miss"] + counts["not_kept"]
        return cls(counts["hit"], misses, counts["not_kept"], failure and public(failure))


@dataclass(frozen=True)
class Effort:
    """The work of labeling some photos.

    Attributes:
        seconds: Time that workers were busy, summed, by step: `decode` (reading not counted), `encode`, each method by
            its name, `write`.
        cache: How often the feature cache helped.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)
    cache: CacheUse = field(default_factory=CacheUse)

    def __add__(self, other: Effort) -> Effort:
        """Add up the efforts for different photos."""
        steps = [*self.seconds, *(step for step in other.seconds if step not in self.seconds)]
        seconds = {step: self.seconds.get(step, 0.0) + other.seconds.get(step, 0.0) for step in steps}
        return Effort(seconds, self.cache + other.cache)

    def to_json(self) -> str:
        """Return the effort as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Effort:
        """Return the effort that `to_json` wrote."""
        values = json.loads(text)
        return cls(values["seconds"], CacheUse(**values["cache"]))
