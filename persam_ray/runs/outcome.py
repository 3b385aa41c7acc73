"""TODO runs.outcome."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from persam_ray.metrics.scores import Metrics, metrics_of
from persam_ray.runs.counts import Counts
from persam_ray.runs.directory import OutputError


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        counts: What was done.
        judged: Packed summaries (judging.pack) of the images that have ground truth.
    """

    counts: Counts
    judged: tuple[bytes, ...]

    def __add__(self, other: Outcome) -> Outcome:
        """Add up the outcomes of different images."""
        return Outcome(self.counts + other.counts, self.judged + other.judged)

    def metrics(self) -> Metrics | None:
        """Return the metrics of the images that have ground truth, if any has."""
        return metrics_of(self.judged) if self.judged else None


def add_up(summaries: Iterable[Mapping[str, Any]]) -> dict[str, Outcome]:
    """Add up the SUMMARY rows that the writers return, as they arrive, by run."""
    counts: dict[str, Counts] = defaultdict(Counts)
    judged: dict[str, list[bytes]] = defaultdict(list)
    for row in summaries:
        counts[row["run"]] += Counts.from_json(row["counts"])
        if row["judged"] is not None:
            judged[row["run"]].append(row["judged"])
    return {run: Outcome(own, tuple(judged[run])) for run, own in counts.items()}


def check_complete(counts: Counts, images: int) -> None:
    """Raise OutputError unless every listed image has become exactly one row."""
    if counts.images != images:
        raise OutputError(f"{images} images were listed, but {counts.images} rows written: the input changed meanwhile")


def check_written(counts: Counts, rows: int) -> None:
    """Raise OutputError unless the files hold just the rows that were counted."""
    if counts.images != rows:
        raise OutputError(
            f"{counts.images} rows were counted, but the files hold {rows}: another job has written here; the same "
            "command again puts it in order"
        )
