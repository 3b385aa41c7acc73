"""Read the predictions of a run, one photo at a time. Masks are decoded only when they are used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any, Literal

from persam_ray.data.parquet import read_tables
from persam_ray.data.schema import PREDICTIONS
from persam_ray.data.storage import exists, join, list_files
from persam_ray.masks import decode_rle
from persam_ray.runs.parts import PREDICTIONS_FOLDER
from persam_ray.types import BoolArray


@dataclass(frozen=True)
class LabeledInstance:
    """One instance of a run's predictions.

    Attributes:
        category: Name of the category.
        score: Confidence in [0, 1]; higher is more likely right.
        box_xyxy: x_min, y_min, x_max, y_max in pixels; the right and lower edges are exclusive.
        area: Number of pixels in the mask.
        rle: COCO's compressed counts string over the photo's pixels.
        size_hw: The photo's (h, w).
        similarity: Highest cosine similarity to the target within the photo; None for other methods.
        predicted_iou: SAM's own prediction of the mask's IoU; None for other methods.
    """

    category: str
    score: float
    box_xyxy: tuple[float, float, float, float]
    area: int
    rle: str
    size_hw: tuple[int, int]
    similarity: float | None
    predicted_iou: float | None

    @property
    def mask_hw(self) -> BoolArray:
        """The mask, bool (h, w), in the photo's own pixels; decoded again at each access."""
        return decode_rle(self.rle, self.size_hw)


@dataclass(frozen=True)
class LabeledPhoto:
    """One row of a run's predictions.

    Attributes:
        image_id: The photo's key.
        height: Photo height in pixels, after the EXIF orientation is applied; None if it could not be decoded.
        width: Photo width, likewise.
        status: `ok`, or `failed`.
        error: Reason of a failure; None for `ok`.
        instances: The instances found; may be empty.
    """

    image_id: str
    height: int | None
    width: int | None
    status: Literal["ok", "failed"]
    error: str | None
    instances: tuple[LabeledInstance, ...]


def read_predictions(run: str | PathLike[str]) -> Iterator[LabeledPhoto]:
    """Yield a run's predictions by photo, in no particular order; only a few rows are in memory at a time.

    Args:
        run: Path or URL of a run directory, or of its predictions/ folder.

    Raises:
        SchemaError: A file lacks the columns of predictions.
        StorageError: There is nothing at that path, or a file cannot be read.

    Example:
        >>> for photo in read_predictions("labels"):
        ...     print(photo.image_id, [instance.mask_hw.sum() for instance in photo.instances])
    """
    root = fspath(run)
    below = join(root, PREDICTIONS_FOLDER)
    folder = below if exists(below) else root
    for name in list_files(folder, [".parquet"]):
        for table in read_tables(join(folder, name), PREDICTIONS):
            yield from map(_photo, table.to_pylist())


def _photo(row: Mapping[str, Any]) -> LabeledPhoto:
    size_hw = (row["height"], row["width"])
    instances = tuple(
        LabeledInstance(**instance | {"box_xyxy": tuple(instance["box_xyxy"]), "size_hw": size_hw})
        for instance in row["instances"]
    )
    return LabeledPhoto(row["image_id"], *size_hw, row["status"], row["error"], instances)
