"""The rows of the benchmark: what each method came to on the same images, and how sure the differences are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

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
from persam_ray.report.results import DifferenceFigures, FigureName, MethodFigures

RUNS = (MASK_RCNN, *SAM_METHODS, SAM_METHODS[-1] + FILTERED, MASK_RCNN + FILTERED)
"""The rows in the article's order, and the last for fairness: a filter that helps one method may help the other."""


def title_of(run: str) -> str:
    """Return what people read for a run."""
    title = TITLES[run.removesuffix(FILTERED)]
    return f"{title}, small objects removed" if run.endswith(FILTERED) else title


COMPARED: tuple[Statistic, ...] = ("ap50", "precision", "recall", "f1", "miou")
"""Figures that are compared with the first row's, by the paired bootstrap over images."""


@dataclass(frozen=True)
class MethodResult:
    """What a method came to: a row of the table.

    Attributes:
        run: One of RUNS; also the name of its run directory.
        labels: Annotated images that the method was given.
        training_s: Seconds that it took to learn from them.
        images_per_s: Images that the workers' models get through in a second, without reading and decoding; None where
            nobody counted.
        failed: Images that could not be used; they are judged in no row.
        summary: Truth and predictions of all images judged, compared.
        metrics: The figures that follow from the summary.
    """

    run: str
    labels: int
    training_s: float
    images_per_s: float | None
    failed: int
    summary: ShardSummary
    metrics: Metrics


@dataclass(frozen=True)
class FailedMethod:
    """A run that came to nothing, one of RUNS, and why."""

    run: str
    error: str


AnyResult = MethodResult | FailedMethod


class BenchmarkError(PersamRayError, ValueError):
    """Nothing can be compared, or some rows failed; the message says which."""


def result_of(run: str, method: str, labeled: Labeled, labels: int, training_s: float, workers: int) -> MethodResult:
    """Return what a run came to.

    Args:
        run: One of RUNS.
        method: Whose predictions it takes.
        labeled: The pass that wrote it.
        labels: Annotated images that the method was given.
        training_s: Seconds that it took to learn from them.
        workers: Actors that shared the pass.

    Raises:
        BenchmarkError: None of the images could be used, or none of those that could holds an object.
    """
    outcome = labeled.outcomes[run]
    seconds = outcome.effort.seconds
    busy_s = seconds.get("encode", 0.0) + seconds.get(method, 0.0)
    if not outcome.judged:
        raise BenchmarkError(f"none of the {outcome.counts.images} test images could be used")
    summary = merged(outcome.judged)
    if not summary.truths_ka[:, 0].any():
        raise BenchmarkError("none of the test images that could be used holds an object of the category")
    images_per_s = workers * outcome.counts.ok / busy_s if busy_s else None
    return MethodResult(run, labels, training_s, images_per_s, outcome.counts.failed, summary, accumulate(summary))


def in_order(results: Sequence[AnyResult]) -> list[AnyResult]:
    """Return the results in the order of RUNS."""
    return sorted(results, key=lambda result: RUNS.index(result.run))


def as_json(results: Sequence[AnyResult], category: str, seed: int) -> list[MethodFigures]:
    """Return the rows of benchmark.json: the results as plain values, with their differences to the first."""
    first = results[0] if isinstance(results[0], MethodResult) else None
    return [_figures(result, category, first, seed) for result in results]


FIGURES = (
    "map", "ap50", "ap75", "tp", "fp", "fn", "score_threshold", "precision", "recall", "f1", "miou", "boundary_iou",
    "best_score_threshold", "best_precision", "best_recall", "best_f1",
)  # fmt: skip


def _figures(result: AnyResult, category: str, first: MethodResult | None, seed: int) -> MethodFigures:
    named = {"method": title_of(result.run), "run": result.run}
    if isinstance(result, FailedMethod):
        unknown = ("labels", *FIGURES, "training_s", "images_per_s", "failed", "difference_to_first")
        return cast(MethodFigures, {**named, "error": result.error, **dict.fromkeys(unknown)})
    values = result.metrics.categories[category]
    figures = {
        **named,
        "error": None,
        "labels": result.labels,
        **{name: values[name] for name in FIGURES},
        "training_s": round(result.training_s, 3),
        "images_per_s": None if result.images_per_s is None else round(result.images_per_s, 3),
        "failed": result.failed,
        "difference_to_first": _differences(result, first, category, seed) if first and result is not first else None,
    }
    return cast(MethodFigures, figures)


def _differences(
    result: MethodResult, first: MethodResult, category: str, seed: int
) -> dict[str, DifferenceFigures] | None:
    """Return the differences by statistic; None where a photo could be used in one of the two passes only."""
    if not np.array_equal(np.sort(result.summary.images), np.sort(first.summary.images)):
        return None
    differences = {
        statistic: bootstrap_difference(result.summary, first.summary, statistic, category=category, seed=seed)
        for statistic in COMPARED
    }
    return {statistic: cast(DifferenceFigures, vars(found)) for statistic, found in differences.items()}


def table(rows: Sequence[MethodFigures]) -> Table:
    """Lay out the rows of `as_json` for a terminal."""
    columns: tuple[FigureName, ...] = ("labels", "map", "ap50", "ap75", "tp", "fp", "fn", "precision", "recall", "miou")
    shown = Table("method", *columns, "training s", "images/s", box=None, padding=(0, 1))
    for row in rows:
        if row["error"]:
            shown.add_row(row["method"], Text(f"failed: {row['error']}"))
        else:
            figures = [figure(row[name]) for name in columns]
            shown.add_row(row["method"], *figures, pace(row["training_s"]), pace(row["images_per_s"]))
    return shown


def charts(results: Sequence[AnyResult], category: str) -> list[MethodCharts]:
    """Draw the curves and histograms of the methods that did not fail."""
    drawn = []
    for series, result in enumerate(results):
        if isinstance(result, MethodResult):
            title, precisions = title_of(result.run), result.metrics.precision_curves.get(category)
            is_filtered = result.run.endswith(FILTERED)
            curve = draw_curve(title, series, precisions, dashed=is_filtered) if precisions else None
            ious = ious_of_images(result.summary, category)
            drawn.append(MethodCharts(curve, draw_histogram(f"{title}: photos by IoU with the truth", series, ious)))
    return drawn
