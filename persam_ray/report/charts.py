"""The charts of a report page, as SVG points and bars: curves of precision over recall, and histograms of IoU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from persam_ray.metrics.summary import ShardSummary

HISTOGRAM_BINS = 20


@dataclass(frozen=True)
class Curve:
    """A line of the precision-recall chart: `points` as SVG takes them."""

    title: str
    series: int
    points: str
    dashed: bool


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram: its height in pixels, and what it says when pointed at."""

    height: float
    title: str


@dataclass(frozen=True)
class Tick:
    """A label below a histogram, at x in pixels."""

    x: float
    text: str


@dataclass(frozen=True)
class Histogram:
    """Bars from 0 to 1 in a frame of 416 x 120."""

    title: str
    series: int
    bars: tuple[Bar, ...]
    width: float
    ticks: tuple[Tick, ...]
    top: str


def draw_curve(title: str, series: int, precisions: Sequence[float], *, dashed: bool = False) -> Curve:
    """Draw precision over equally spaced recalls from 0 to 1, in a frame of 400 x 240 at (46, 20)."""
    recalls = np.linspace(0, 1, len(precisions))
    points = (f"{46 + 400 * r:.1f},{260 - 240 * p:.1f}" for r, p in zip(recalls, precisions, strict=True))
    return Curve(title, series, " ".join(points), dashed)


def draw_histogram(title: str, series: int, values: Iterable[float]) -> Histogram:
    """Draw how often values in [0, 1] fall into HISTOGRAM_BINS bins."""
    counts = np.histogram(list(values), bins=HISTOGRAM_BINS, range=(0, 1))[0].tolist()
    width, highest = 416 / HISTOGRAM_BINS, max(*counts, 1)
    bars = tuple(
        Bar(
            height=round(118 * count / highest, 1),
            title=f"{place / HISTOGRAM_BINS:.2f} to {(place + 1) / HISTOGRAM_BINS:.2f}: {count}",
        )
        for place, count in enumerate(counts)
    )
    ticks = tuple(Tick(30 + 416 * tick / 5, f"{tick / 5:.1f}") for tick in range(6))
    return Histogram(title, series, bars, width, ticks, f"{highest} photos")


def ious_of_images(summary: ShardSummary, category: str) -> list[float]:
    """Return the IoU of prediction and truth, each the union of its masks, of the images that hold a category."""
    tallies = summary.tallies[summary.tallies["category"] == summary.categories.index(category)]
    held = tallies[tallies["truth_px"] > 0]
    ious: list[float] = (held["intersection"] / held["union"]).tolist()
    return ious
