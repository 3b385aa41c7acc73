"""What labeling some photos took: seconds by step, and what came of the feature cache.

It travels beside the rows, and the writer adds it up for each file: so a photo is counted once, by the attempt whose
row was kept, even where a task was tried again or the display was lost.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from persam_ray.text import public

CacheOutcome = Literal["hit", "miss", "not_kept"]
"""A photo's features were found in the cache; or were encoded and are kept there now; or found no room."""


@dataclass(frozen=True)
class CacheUse:
    """What came of the feature cache.

    Attributes:
        hits: Photos whose features were found.
        misses: Photos that were encoded.
        not_kept: Those of them whose features found no room.
        failure: Why reading or writing failed, if it did.
    """

    hits: int = 0
    misses: int = 0
    not_kept: int = 0
    failure: str | None = None

    def __add__(self, other: CacheUse) -> CacheUse:
        """Add up; of several failures the first stays."""
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
    """What labeling some photos took.

    Attributes:
        seconds: That workers were busy, in sum, by step: `decode` (reading not counted), `encode`, each method by its
            name, `write`.
        cache: What came of the feature cache.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)
    cache: CacheUse = field(default_factory=CacheUse)

    def __add__(self, other: Effort) -> Effort:
        """Add up the efforts for different photos."""
        steps = [*self.seconds, *(step for step in other.seconds if step not in self.seconds)]
        seconds = {step: self.seconds.get(step, 0.0) + other.seconds.get(step, 0.0) for step in steps}
        return Effort(seconds, self.cache + other.cache)

    def to_json(self) -> str:
        """Return the effort as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Effort:
        """Return the effort of `to_json`."""
        values = json.loads(text)
        return cls(values["seconds"], CacheUse(**values["cache"]))
