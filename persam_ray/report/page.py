"""The report: one self-contained HTML page, for a benchmark or a labeling run. A task builds it; nothing here uses Ray.

The page needs no network and no other file, and follows the viewer's light or dark theme. It stays under MAX_PAGE_BYTES
for any number of images, because it shows a limited number of photos, each of bounded size. All text from data is
escaped, and a content security policy lets only our own script run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import jinja2
from markupsafe import Markup

from persam_ray.data.storage import join, write_bytes
from persam_ray.report.charts import Curve, Histogram
from persam_ray.report.gallery import Shot, Thumbnail

MAX_PAGE_BYTES = 13 * 10**6

TEMPLATES = Path(__file__).parent / "templates"


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


@dataclass(frozen=True)
class Cell:
    """A figure of the table, with small figures below it.

    Attributes:
        text: The figure.
        notes: The small ones, a line each.
        best: Whether it is the best of its column.
    """

    text: str
    notes: tuple[str, ...] = ()
    best: bool = False


@dataclass(frozen=True)
class FigureRow:
    """A row of the table.

    Attributes:
        title: What the figures belong to.
        cells: One for each column; none where there is an error.
        series: Number of the colour that marks it in the charts; None for no mark.
        error: What went wrong, shown instead of figures.
    """

    title: str
    cells: tuple[Cell, ...] = ()
    series: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class FigureTable:
    """The table of the page.

    Attributes:
        head: Title of the first column, which holds the rows' titles.
        columns: Titles of the others.
        rows: From top to bottom.
        notes: What stands below it, a paragraph each.
    """

    head: str
    columns: tuple[str, ...]
    rows: tuple[FigureRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the template shows; parts that are empty are left out."""

    title: str
    lead: Sequence[str]
    facts: Sequence[tuple[str, str]]
    table: FigureTable | None = None
    curves: Sequence[Curve] = ()
    histograms: Sequence[Histogram] = ()
    comparison: Sequence[Sequence[Shot]] = ()
    comparison_note: str = ""
    galleries: Sequence[Gallery] = ()
    reasons: Sequence[str] = ()
    has_truth: bool = False

    @property
    def thumbnails(self) -> list[Thumbnail]:
        """Each photo that is shown, once."""
        shots = [shot for row in self.comparison for shot in row]
        shots += [shot for gallery in self.galleries for group in gallery.groups for shot in group.shots]
        return list({shot.thumbnail.key: shot.thumbnail for shot in shots}.values())


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


def pace(value: float | None) -> str:
    """Return seconds or images per second as text."""
    return "-" if value is None else f"{value:.1f}"


def figure(value: float | None) -> str:
    """Return a figure as text: counts as they are, ratios with three digits, a dash for what is undefined."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
