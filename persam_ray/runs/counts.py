"""Counts of rows: how many photos, how many failed and why, how many instances."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

REASONS = 20  # kinds of failure that are counted apart; the rest are `other`


@dataclass(frozen=True)
class Counts:
    """How many images were labeled and how many failed.

    Attributes:
        images: Rows of predictions, one for each image.
        ok: Images that were labeled, with or without instances.
        failed: Images that could not be labeled; each row says why.
        instances: Instances found in all images together.
        reasons: Number of failures by their kind (`reason`), for the 20 most common kinds.
    """

    images: int = 0
    ok: int = 0
    failed: int = 0
    instances: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Counts) -> Counts:
        """Return the counts of different images together."""
        return Counts(
            self.images + other.images,
            self.ok + other.ok,
            self.failed + other.failed,
            self.instances + other.instances,
            _most_common(Counter(self.reasons) + Counter(other.reasons)),
        )

    def to_json(self) -> str:
        """Return the counts as JSON."""
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Counts:
        """Return the counts that `to_json` wrote."""
        return cls(**json.loads(text))

    @classmethod
    def of(cls, table: pa.Table) -> Counts:
        """Count PREDICTIONS rows."""
        failed = table.filter(pc.equal(table["status"], "failed"))
        instances = pc.sum(pc.list_value_length(table["instances"])).as_py() or 0
        reasons = Counter(reason(error or "") for error in failed["error"].to_pylist())
        return cls(len(table), len(table) - len(failed), len(failed), instances, _most_common(reasons))


def reason(error: str) -> str:
    """Return an error's kind: its text before the first colon, parenthesis or quote, with N for each number."""
    kind = re.split(r"[:('\"]", error, maxsplit=1)[0]
    return re.sub(r"\d+(\.\d+)?", "N", kind).strip()[:80] or "unknown"


def _most_common(reasons: Counter[str]) -> dict[str, int]:
    told = sorted(
        ((kind, number) for kind, number in reasons.items() if kind != "other"), key=lambda one: (-one[1], one[0])
    )
    kept = dict(told[:REASONS])
    rest = reasons.total() - sum(kept.values())
    return kept | {"other": rest} if rest else kept
