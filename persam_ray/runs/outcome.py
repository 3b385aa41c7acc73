"""The outcome of a run: the summaries of its writers, added up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

from persam_ray.metrics.scores import Metrics, metrics_of
from persam_ray.runs.counts import Counts
from persam_ray.runs.directory import OutputError
from persam_ray.runs.effort import Effort


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    Attributes:
        counts: Images labeled and failed, and instances found.
        judged: Packed summaries (`metrics.summary.pack`) of the images that have ground truth.
        effort: The work that it took; empty for rows of earlier runs.
    """

    counts: Counts
    judged: tuple[bytes, ...]
    effort: Effort = field(default_factory=Effort)

    def __add__(self, other: Outcome) -> Outcome:
        """Add up the outcomes of different images."""
        return Outcome(self.counts + other.counts, self.judged + other.judged, self.effort + other.effort)

    def metrics(self) -> Metrics | None:
        """Return the metrics of the images that have ground truth; None if none has."""
        return metrics_of(self.judged) if self.judged else None


def add_up(summaries: Iterable[Mapping[str, Any]]) -> dict[str, Outcome]:
    """Add up the writers' SUMMARY rows by run. A file that was written twice counts once, by its last row."""
    files: dict[str, dict[str, Outcome]] = {}
    for row in summaries:
        judged = () if row["judged"] is None else (row["judged"],)
        outcome = Outcome(Counts.from_json(row["counts"]), judged, Effort.from_json(row["effort"]))
        files.setdefault(row["run"], {})[row["file"]] = outcome
    return {run: reduce(add, outcomes.values()) for run, outcomes in files.items()}


def check_complete(counts: Counts, images: int) -> None:
    """Raise OutputError unless every listed image has become exactly one row."""
    if counts.images != images:
        raise OutputError(f"{images} images were listed, but {counts.images} rows written: the input changed meanwhile")


def check_written(counts: Counts, rows: int) -> None:
    """Raise OutputError unless the files hold as many rows as were counted."""
    if counts.images != rows:
        raise OutputError(
            f"{counts.images} rows were counted, but the files hold {rows}: another job has written here; the same "
            "command again puts it in order"
        )
