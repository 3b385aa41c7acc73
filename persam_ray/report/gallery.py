"""What the report shows of the photos: which ones, and how they are drawn. No Ray here: it runs in one task.

Files of matches and predictions are streamed. A few dozen photos are read again and made small. Outlines are vectors
over them, so a photo that several galleries show is stored once, and outlines stay sharp when it is enlarged.
"""

from __future__ import annotations

import base64
import heapq
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from persam_ray.data.dataset import Dataset
from persam_ray.data.parquet import read_tables
from persam_ray.data.rows import AnnotationRow, ImageRow, MatchKind, MatchRow, PredictionRow
from persam_ray.data.schema import MATCHES, PREDICTIONS
from persam_ray.data.shard import Shard
from persam_ray.data.storage import join, list_files
from persam_ray.images import BadImageError, decode_image, resize, resized_size_hw
from persam_ray.masks import decode_rle
from persam_ray.types import BoolArray

THUMBNAIL_SIDE_PX = 640
THUMBNAIL_BYTES = 48_000
"""Longest side and largest size of a photo in the page; what does not fit is compressed more, then made smaller."""

READERS = 8

OUTLINE_POINTS = 500
"""Most points of one outline: 6 KB of text."""


@dataclass(frozen=True)
class Thumbnail:
    """A photo as the page shows it.

    Attributes:
        key: Its name within the page.
        uri: Its pixels as a `data:` URI.
        width: In pixels of the page's coordinates.
        height: The same.
    """

    key: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Shot:
    """One picture of a gallery: a photo with outlines over it, and what stands below.

    Attributes:
        thumbnail: What lies below the outlines.
        image_id: The photo's key.
        truth: Outline of the ground truth, as the `d` of an SVG path; empty for none.
        found: Outline of the prediction.
        caption: Short facts.
    """

    thumbnail: Thumbnail
    image_id: str
    truth: str
    found: str
    caption: tuple[str, ...]


# --- choosing --------------------------------------------------------------------------------------------------------

Order = Callable[[MatchRow], tuple[float, ...]]


def _surest_first(match: MatchRow) -> tuple[float, ...]:
    assert match["score"] is not None, "a false positive has the score of its prediction"
    return (-match["score"], -match["area"])


WORST_FIRST: dict[MatchKind, Order] = {
    "tp": lambda match: (match["iou"],),
    "fp": _surest_first,
    "fn": lambda match: (-match["area"], match["iou"]),
}
"""The order of each gallery: the loosest hits, the surest and largest strays, the largest misses."""


def worst_matches(run: str, category: str, count: int) -> dict[MatchKind, list[MatchRow]]:
    """Return by kind (tp, fp, fn) the worst matches of a run, at most one of an image, worst first."""
    worst: dict[MatchKind, dict[str, MatchRow]] = {kind: {} for kind in WORST_FIRST}
    for match in _match_rows(run):
        if match["category"] == category:
            _keep(worst[match["kind"]], match, WORST_FIRST[match["kind"]], count)
    return {kind: sorted(worst[kind].values(), key=WORST_FIRST[kind]) for kind in worst}


def _keep(kept: dict[str, MatchRow], match: MatchRow, order: Order, count: int) -> None:
    """Take a match among those kept, by image, if it is worse than what it replaces."""
    name = match["image_id"]
    if name in kept and order(kept[name]) <= order(match):
        return
    kept[name] = match
    if len(kept) > count:
        del kept[max(kept, key=lambda image_id: order(kept[image_id]))]


@dataclass(frozen=True)
class Sample:
    """Rows of predictions to look at.

    Attributes:
        lowest: Those whose lowest score is lowest, lowest first.
        empty: The first in which nothing was found, by name.
        failed: The first that could not be used, by name.
    """

    lowest: list[PredictionRow]
    empty: list[PredictionRow]
    failed: list[PredictionRow]


def sample_run(run: str, count: int, others: int, score_threshold: float) -> Sample:
    """Choose rows of a run to look at; only instances of at least a score count, and only those are in the rows.

    Args:
        run: URI of the run directory.
        count: How many of the lowest scores.
        others: How many of those without an instance, and of those that failed.
        score_threshold: In [0, 1].
    """
    lowest: list[tuple[float, str, PredictionRow]] = []
    empty: list[PredictionRow] = []
    failed: list[PredictionRow] = []
    for row in _prediction_rows(run):
        row["instances"] = [one for one in row["instances"] if one["score"] >= score_threshold]
        if row["instances"]:
            entry = (-min(instance["score"] for instance in row["instances"]), row["image_id"], row)
            (heapq.heappush if len(lowest) < count else heapq.heappushpop)(lowest, entry)
        else:
            kept = empty if row["status"] == "ok" else failed
            kept.append(row)
            kept.sort(key=lambda row: str(row["image_id"]))
            del kept[others:]
    return Sample([row for _, _, row in sorted(lowest, key=lambda entry: (-entry[0], entry[1]))], empty, failed)


def predictions_of(run: str, image_ids: Collection[str]) -> dict[str, PredictionRow]:
    """Return the rows of predictions of some images."""
    return {row["image_id"]: row for row in _prediction_rows(run, frozenset(image_ids))}


def _match_rows(run: str) -> Iterator[MatchRow]:
    for table in _tables(join(run, "matches"), MATCHES):
        yield from table.to_pylist()


def _prediction_rows(run: str, image_ids: frozenset[str] | None = None) -> Iterator[PredictionRow]:
    for table in _tables(join(run, "predictions"), PREDICTIONS):
        if image_ids is None:
            yield from table.to_pylist()
        else:
            is_wanted = [key in image_ids for key in table["image_id"].to_pylist()]
            yield from table.filter(pa.array(is_wanted, pa.bool_())).to_pylist()


def _tables(folder: str, schema: pa.Schema) -> Iterator[pa.Table]:
    for name in list_files(folder, [".parquet"]):
        yield from read_tables(join(folder, name), schema)


# --- drawing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PagePhoto:
    """A photo that was read again for the page.

    Attributes:
        image_id: Its key.
        thumbnail: What the page shows of it.
        annotations: Its ground truth; None where it has none.
    """

    image_id: str
    thumbnail: Thumbnail
    annotations: Sequence[AnnotationRow] | None


def read_photos(dataset: Dataset, image_ids: Iterable[str]) -> dict[str, PagePhoto]:
    """Read some photos again, by their keys; those that cannot be decoded are left out.

    Shards are read by threads, for most of the time goes into waiting for storage.
    """
    photos: dict[str, PagePhoto] = {}
    with ThreadPoolExecutor(READERS) as pool:
        for rows in pool.map(_rows_of_shard, dataset.only(image_ids).shards):
            for row in rows:
                image_id = row["image_id"]
                try:
                    thumbnail = make_thumbnail(f"photo{len(photos)}", row["image"] or b"")
                except BadImageError:
                    continue
                photos[image_id] = PagePhoto(image_id, thumbnail, row["annotations"])
    return photos


def _rows_of_shard(shard: Shard) -> list[ImageRow]:
    return [row for table in shard.read() for row in table.to_pylist()]


def make_thumbnail(key: str, encoded: bytes) -> Thumbnail:
    """Make a photo as small as the page takes it.

    Args:
        key: Its name within the page.
        encoded: The photo's file.

    Raises:
        BadImageError: It cannot be decoded.
    """
    image_hw3 = decode_image(encoded)
    for side_px, quality in ((THUMBNAIL_SIDE_PX, 82), (THUMBNAIL_SIDE_PX, 65), (480, 65), (360, 60), (240, 50)):
        size_hw = resized_size_hw((image_hw3.shape[0], image_hw3.shape[1]), min(side_px, max(image_hw3.shape[:2])))
        buffer = io.BytesIO()
        Image.fromarray(resize(image_hw3, size_hw)).save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= THUMBNAIL_BYTES:
            break
    uri = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return Thumbnail(key, uri, size_hw[1], size_hw[0])


def outline(rles: Sequence[str], size_hw: tuple[int, int], thumbnail: Thumbnail) -> str:
    """Return the contours of the union of masks, in the thumbnail's coordinates, as the `d` of an SVG path."""
    mask_hw = np.zeros(size_hw, dtype=np.bool_)
    for rle in rles:
        mask_hw |= decode_rle(rle, size_hw)
    return outline_of(mask_hw, thumbnail)


def outline_of(mask_hw: BoolArray, thumbnail: Thumbnail) -> str:
    """Return the contours of a mask, in the thumbnail's coordinates, as the `d` of an SVG path.

    Contours run along the outer pixels of the mask; the largest come first and small ones are left out beyond
    OUTLINE_POINTS.
    """
    scale_xy = np.array([thumbnail.width / mask_hw.shape[1], thumbnail.height / mask_hw.shape[0]])
    contours, _ = cv2.findContours(mask_hw.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    parts: list[str] = []
    points = 0
    for contour in sorted(contours, key=len, reverse=True):
        scaled = ((contour + 0.5) * scale_xy).astype(np.float32)
        simple = _simplified(scaled)
        points += len(simple)
        if points > OUTLINE_POINTS and parts:
            break
        parts.append("M" + "L".join(f"{x:.4g} {y:.4g}" for x, y in simple.tolist()) + "Z")
    return "".join(parts)


def _simplified(contour: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return fewer points that stay within half a pixel or so, or farther where that leaves too many."""
    tolerance_px = 0.6
    while len(simple := cv2.approxPolyDP(contour, tolerance_px, closed=True)[:, 0]) > OUTLINE_POINTS:
        tolerance_px *= 2
    return np.asarray(simple)
