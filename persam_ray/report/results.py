"""The content of benchmark.json: the benchmark writes it, its page shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypedDict

from persam_ray.metrics.scores import Number
from persam_ray.types import Objects

FigureName = Literal[
    "labels", "map", "ap50", "ap75", "tp", "fp", "fn", "precision", "recall", "miou", "training_s", "images_per_s"
]
"""The figures of a method that tables show."""


class DifferenceFigures(TypedDict):
    """A method's statistic minus that of the first method, with its 95% interval; None where undefined."""

    difference: float | None
    low: float | None
    high: float | None
    resamples: int


class MethodFigures(TypedDict):
    """What one method came to. Every figure is None where the method failed.

    `method` is its title for people, `run` its name and that of its run directory; `error` says why it failed.
    `difference_to_first` goes by statistic; it is None for the first method, and where the methods were judged on
    different photos.
    """

    method: str
    run: str
    error: str | None
    labels: int | None
    map: Number
    ap50: Number
    ap75: Number
    tp: int | None
    fp: int | None
    fn: int | None
    score_threshold: Number
    precision: Number
    recall: Number
    f1: Number
    miou: Number
    boundary_iou: Number
    best_score_threshold: Number
    best_precision: Number
    best_recall: Number
    best_f1: Number
    training_s: Number
    images_per_s: Number
    failed: int | None
    difference_to_first: Mapping[str, DifferenceFigures] | None


class BenchmarkResults(TypedDict):
    """What was compared on what, and what came of it."""

    category: str
    train_images: int
    test_images: int
    test_images_with_category: int
    objects: Objects
    iou_threshold: float
    min_area_fraction: float
    seed: int
    reference_id: str
    train_ids: list[str]
    test_ids: list[str]
    rows: list[MethodFigures]
