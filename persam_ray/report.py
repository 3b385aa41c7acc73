"""The report: one self-contained HTML page, of the benchmark or of a labeling run. No Ray here: it is built in a task.

The page needs no network and no other file, follows the viewer's light or dark theme, and stays under MAX_PAGE_BYTES
whatever the number of images: at most a few dozen photos, each of bounded size. All that comes from data is escaped,
and a content security policy lets no script run but ours.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from persam_ray.datasets import Dataset
from persam_ray.evaluation_merge import Metrics, ShardSummary
from persam_ray.gallery import Photo, Shot, outline, read_photos, sample_run
from persam_ray.storage import join, write_bytes

MAX_PAGE_BYTES = 13 * 10**6
LOWEST_PHOTOS = 96
TAR_PHOTOS = 12
HISTOGRAM_BINS = 20

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Curve:
    """A line of the precision-recall chart: `points` as SVG takes them."""

    title: str
    series: int
    points: str
    dashed: bool


@dataclass(frozen=True)
class Histogram:
    """Bars from 0 to 1 in a frame of 416 x 120."""

    title: str
    series: int
    bars: tuple[dict[str, Any], ...]
    width: float
    ticks: tuple[dict[str, Any], ...]
    top: str


@dataclass(frozen=True)
class Group:
    """Shots under one title."""

    title: str
    shots: tuple[Shot, ...]


@dataclass(frozen=True)
class Gallery:
    """A part of the page: groups of shots, under one title and a note."""

    title: str
    note: str
    groups: tuple[Group, ...]


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the template shows; parts that are empty are left out."""

    title: str
    lead: Sequence[str]
    facts: Sequence[tuple[str, str]]
    table: Mapping[str, Any] | None = None
    curves: Sequence[Curve] = ()
    histograms: Sequence[Histogram] = ()
    comparison: Sequence[Sequence[Shot]] = ()
    comparison_note: str = ""
    galleries: Sequence[Gallery] = ()
    reasons: Sequence[str] = ()
    has_truth: bool = False

    @property
    def photos(self) -> list[Photo]:
        """Each photo that is shown, once."""
        shots = [shot for row in self.comparison for shot in row]
        shots += [shot for gallery in self.galleries for group in gallery.groups for shot in group.shots]
        return list({shot.photo.key: shot.photo for shot in shots}.values())


def write_page(output: str, page: Page) -> str:
    """Write report/index.html below a run directory and return its URI."""
    uri = join(output, "report", "index.html")
    content = render(page).encode()
    assert len(content) <= MAX_PAGE_BYTES, f"the report has {len(content)} bytes"
    write_bytes(uri, content)
    return uri


def render(page: Page) -> str:
    """Return the page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return environment.get_template("report.html").render(
        page=page,
        version=version("persam-ray"),
        style=Markup(style),
        script=Markup(script),
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
    )


def _csp_hash(content: str) -> str:
    return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode("ascii")


# --- charts ----------------------------------------------------------------------------------------------------------


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
        {
            "height": round(118 * count / highest, 1),
            "title": f"{place / HISTOGRAM_BINS:.2f} to {(place + 1) / HISTOGRAM_BINS:.2f}: {count}",
        }
        for place, count in enumerate(counts)
    )
    ticks = tuple({"x": 30 + 416 * tick / 5, "text": f"{tick / 5:.1f}"} for tick in range(6))
    return Histogram(title, series, bars, width, ticks, f"{highest} photos")


def ious_of_images(summary: ShardSummary, category: str) -> list[float]:
    """Return the IoU of prediction and truth, each the union of its masks, of the images that hold a category."""
    tallies = summary.tallies[summary.tallies["category"] == summary.categories.index(category)]
    held = tallies[tallies["truth_px"] > 0]
    ious: list[float] = (held["intersection"] / held["union"]).tolist()
    return ious


# --- the label job's page --------------------------------------------------------------------------------------------


def write_contact_sheet(
    output: str,
    dataset: Dataset,
    categories: Sequence[str],
    counts: Mapping[str, int],
    metrics: Metrics | None,
    score_threshold: float = 0.0,
) -> str:
    """Write the page of a labeling run: photos with their masks, those of the lowest scores first.

    Args:
        output: The run directory, with its predictions.
        dataset: The photos.
        categories: What was labeled.
        counts: Images, ok, failed, instances.
        metrics: Where there is ground truth.
        score_threshold: Instances under it are not shown.

    Returns:
        The page's URI.
    """
    in_tars = dataset.format == "webdataset"  # which are read whole for a photo
    sample = sample_run(output, TAR_PHOTOS if in_tars else LOWEST_PHOTOS, TAR_PHOTOS, score_threshold)
    photos = read_photos(dataset, [row["image_id"] for row in (*sample.lowest, *sample.empty)])
    lowest, empty = (
        tuple(_contact(row, photos[row["image_id"]][0]) for row in rows if row["image_id"] in photos)
        for rows in (sample.lowest, sample.empty)
    )
    names = ", ".join(categories)
    page = Page(
        title=f"Labels: {names}",
        lead=[
            f"{counts['instances']} instances of {names} were found in {counts['ok']} photos; {counts['failed']} "
            "photos could not be used.",
            "Below are the photos with the lowest scores: if these are good enough, the others are.",
        ],
        facts=[(name, str(counts[name])) for name in ("images", "ok", "failed", "instances")],
        table=_category_table(metrics) if metrics else None,
        galleries=[
            Gallery(
                "What was found",
                f"Instances of scores of at least {score_threshold:g}." if score_threshold else "",
                (Group("Lowest scores first", lowest), Group("Photos in which nothing was found, the first", empty)),
            )
        ],
        reasons=[f"{row['image_id']}: {row['error']}" for row in sample.failed],
    )
    return write_page(output, page)


def _contact(row: Mapping[str, Any], photo: Photo) -> Shot:
    found = sorted(row["instances"], key=lambda instance: float(instance["score"]))
    caption = [f"{instance['category']} {instance['score']:.3f}" for instance in found[:5]]
    masks = outline([instance["rle"] for instance in found], (row["height"], row["width"]), photo)
    return Shot(photo, row["image_id"], "", masks, (*caption, row["image_id"]))


def _category_table(metrics: Metrics) -> dict[str, Any]:
    columns = {"mAP": "map", "AP50": "ap50", "mIoU": "miou", "TP": "tp", "FP": "fp", "FN": "fn"}
    rows = [
        {
            "title": category,
            "series": None,
            "error": None,
            "cells": [{"text": figure(values[name]), "notes": (), "best": False} for name in columns.values()],
        }
        for category, values in metrics.categories.items()
    ]
    return {
        "head": "Category",
        "columns": list(columns),
        "rows": rows,
        "notes": ["Against the ground truth of the photos that have it."],
    }


def pace(value: float | None) -> str:
    """Return seconds or images per second as text."""
    return "-" if value is None else f"{value:.1f}"


def figure(value: float | None) -> str:
    """Return a figure as text: counts as they are, ratios with three digits, a dash for what is undefined."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
