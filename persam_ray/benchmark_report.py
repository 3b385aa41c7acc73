"""The benchmark's page: the table, the curves, every method's hits and misses, the same photos by every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from persam_ray.annotations import category_mask
from persam_ray.datasets import Dataset
from persam_ray.gallery import Photo, Shot, outline, outline_of, predictions_of, read_photos, worst_matches
from persam_ray.judging import JudgeOptions, image_pair
from persam_ray.masks import decode_rle
from persam_ray.report import Curve, Gallery, Histogram, Page, figure, write_page
from persam_ray.storage import join
from persam_ray.types import BoolArray

SHOTS_PER_GROUP = 8
COMPARED_PHOTOS = 6

KINDS = {
    "tp": "True positives, loosest first",
    "fp": "False positives, surest first",
    "fn": "False negatives, largest first",
}

Row = Mapping[str, Any]


@dataclass(frozen=True)
class MethodCharts:
    """What a method's summary shows, small enough to travel to the task that builds the page."""

    curve: Curve | None
    histogram: Histogram


@dataclass(frozen=True)
class MethodRun:
    """A method whose pictures are shown.

    Attributes:
        title: Its name for people.
        folder: URI of its run directory.
        judge: How it was judged.
    """

    title: str
    folder: str
    judge: JudgeOptions


def write_benchmark_report(
    output: str,
    dataset: Dataset,
    results: Mapping[str, Any],
    runs: Sequence[MethodRun],
    charts: Sequence[MethodCharts],
) -> str:
    """Write the page above the rows' run directories.

    Args:
        output: URI of the benchmark.
        dataset: The test images.
        results: The content of benchmark.json.
        runs: The methods that did not fail, in the order of the rows.
        charts: Their curves and histograms.

    Returns:
        The page's URI.
    """
    category = results["category"]
    matches = {run.folder: worst_matches(run.folder, category, SHOTS_PER_GROUP) for run in runs}
    shown = {match["image_id"] for by_kind in matches.values() for group in by_kind.values() for match in group}
    compared = results["test_ids"]
    found = {run.folder: predictions_of(run.folder, shown.union(compared)) for run in runs}
    compared = _to_compare(dataset, compared, category)
    photos = read_photos(dataset, shown.union(compared))
    return write_page(
        output,
        Page(
            title=f"Labeling “{category}”: which method, with how few labels?",
            lead=_lead(results),
            facts=_facts(results),
            table=_table(results),
            curves=[chart.curve for chart in charts if chart.curve],
            histograms=[chart.histogram for chart in charts],
            comparison=[_side_by_side(image_id, photos, runs, found, category) for image_id in compared],
            comparison_note="The first test images, in the order in which they were drawn, that hold the category: "
            "nobody chose them.",
            galleries=[
                _gallery(run, matches[run.folder], found[run.folder], photos)
                for run in runs
            ],
            has_truth=True,
        ),
    )
