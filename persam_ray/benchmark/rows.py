"""The rows of the benchmark: what each method came to on the same images, and how sure the differences are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from persam_ray.cluster.labeling import Labeled
from persam_ray.errors import PersamRayError
from persam_ray.methods.registry import FILTERED, MASK_RCNN, SAM_METHODS, TITLES
from persam_ray.metrics.bootstrap import Statistic, bootstrap_difference
from persam_ray.metrics.scores import Metrics, accumulate
from persam_ray.metrics.summary import ShardSummary, merged
from persam_ray.report.benchmark_page import MethodCharts
from persam_ray.report.charts import draw_curve, draw_histogram, ious_of_images
from persam_ray.report.page import figure, pace

RUNS = (MASK_RCNN, *SAM_METHODS, SAM_METHODS[-1] + FILTERED, MASK_RCNN + FILTERED)
"""The rows in the article's order, and the last for fairness: a filter that helps one method may help the other."""


def title_of(run: str) -> str:
    """Return what people read for a run."""
    title = TITLES[run.removesuffix(FILTERED)]
    return f"{title}, small objects removed" if run.endswith(FILTERED) else title


COMPARED: tuple[Statistic, ...] = ("ap50", "precision", "recall", "f1", "miou")
"""Figures that are compared with the first row's, by the paired bootstrap over images."""


@dataclass(frozen=True)
class Row:
    """What a method came to.

    Attributes:
        method: One of RUNS; also the name of its run directory.
        labels: Annotated images that it was given.
        training_s: Seconds that it took to learn from them.
        images_per_s: Images that the workers' models get through in a second, without reading and decoding; None where
            nobody counted.
        failed: Images that could not be used; they are judged in no row.
        summary: Of all images judged.
        metrics: Its figures.
    """

    method: str
    labels: int
    training_s: float
    images_per_s: float | None
    failed: int
    summary: ShardSummary
    metrics: Metrics


@dataclass(frozen=True)
class FailedRow:
    """A method that came to nothing, and why."""

    method: str
    error: str


AnyRow = Row | FailedRow


class BenchmarkError(PersamRayError, ValueError):
    """Nothing can be compared, or some rows failed; the message says which."""


def make_row(name: str, method: str, labeled: Labeled, labels: int, training_s: float, workers: int) -> Row:
    """Return the row of a run.

    Args:
        name: The run, one of RUNS.
        method: Whose predictions it takes.
        labeled: The pass that wrote it.
        labels: Annotated images that the method was given.
        training_s: Seconds that it took to learn from them.
        workers: Actors that shared the pass.
    """
    outcome = labeled.outcomes[name]
    seconds = outcome.effort.seconds
    busy_s = seconds.get("encode", 0.0) + seconds.get(method, 0.0)
    if not outcome.judged:
        raise BenchmarkError(f"none of the {outcome.counts.images} test images could be used")
    summary = merged(outcome.judged)
    if not summary.truths_ka[:, 0].any():
        raise BenchmarkError("none of the test images that could be used holds an object of the category")
    images_per_s = workers * outcome.counts.ok / busy_s if busy_s else None
    return Row(name, labels, training_s, images_per_s, outcome.counts.failed, summary, accumulate(summary))


def in_order(rows: Sequence[AnyRow]) -> list[AnyRow]:
    """Return the rows in the order of RUNS."""
    return sorted(rows, key=lambda row: RUNS.index(row.method))


def as_json(rows: Sequence[AnyRow], category: str, seed: int) -> list[dict[str, Any]]:
    """Return the rows as plain values, with their differences to the first."""
    first = rows[0]
    return [_row_json(row, category, first if isinstance(first, Row) else None, seed) for row in rows]


FIGURES = (
    "map", "ap50", "ap75", "tp", "fp", "fn", "score_threshold", "precision", "recall", "f1", "miou", "boundary_iou",
    "best_score_threshold", "best_precision", "best_recall", "best_f1",
)  # fmt: skip


def _row_json(row: AnyRow, category: str, first: Row | None, seed: int) -> dict[str, Any]:
    common = {"method": title_of(row.method), "run": row.method}
    if isinstance(row, FailedRow):
        unknown = ("labels", *FIGURES, "training_s", "images_per_s", "failed", "difference_to_first")
        return {**common, "error": row.error, **dict.fromkeys(unknown)}
    values = row.metrics.categories[category]
    return {
        **common,
        "error": None,
        "labels": row.labels,
        **{name: values[name] for name in FIGURES},
        "training_s": round(row.training_s, 3),
        "images_per_s": None if row.images_per_s is None else round(row.images_per_s, 3),
        "failed": row.failed,
        "difference_to_first": _differences(row, first, category, seed) if first and row is not first else None,
    }


def _differences(row: Row, first: Row, category: str, seed: int) -> dict[str, Any] | None:
    """Return the differences by statistic; None where a photo could be used in one of the two passes only."""
    if not np.array_equal(np.sort(row.summary.images), np.sort(first.summary.images)):
        return None
    return {
        statistic: vars(bootstrap_difference(row.summary, first.summary, statistic, category=category, seed=seed))
        for statistic in COMPARED
    }


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Lay out the rows of `as_json` for a terminal."""
    columns = ("labels", "map", "ap50", "ap75", "tp", "fp", "fn", "precision", "recall", "miou")
    shown = Table("method", *columns, "training s", "images/s", box=None, padding=(0, 1))
    for row in rows:
        if row["error"]:
            shown.add_row(row["method"], Text(f"failed: {row['error']}"))
        else:
            figures = [figure(row[name]) for name in columns]
            shown.add_row(row["method"], *figures, pace(row["training_s"]), pace(row["images_per_s"]))
    return shown


def charts(rows: Sequence[AnyRow], category: str) -> list[MethodCharts]:
    """Draw the curves and histograms of the rows that did not fail."""
    drawn = []
    for series, row in enumerate(rows):
        if isinstance(row, Row):
            title, precisions = title_of(row.method), row.metrics.precision_curves.get(category)
            is_filtered = row.method.endswith(FILTERED)
            curve = draw_curve(title, series, precisions, dashed=is_filtered) if precisions else None
            ious = ious_of_images(row.summary, category)
            drawn.append(MethodCharts(curve, draw_histogram(f"{title}: photos by IoU with the truth", series, ious)))
    return drawn
