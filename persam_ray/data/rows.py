"""Types of the contract's rows as Python values, as Arrow's `to_pylist` returns them for the schemas in `schema`."""

from __future__ import annotations

from typing import Literal, TypedDict

MatchKind = Literal["tp", "fp", "fn"]
"""An object was found (`tp`), was reported where there is none (`fp`), or was missed (`fn`)."""


class AnnotationRow(TypedDict):
    """A value of the ANNOTATION struct: one annotated object."""

    category: str
    rle: str
    bbox_xywh: list[float]
    area: float
    iscrowd: bool


class ImageRow(TypedDict):
    """A row of READ: one photo, encoded, and its ground truth, if it has any."""

    image_id: str
    image: bytes | None
    height: int | None
    width: int | None
    annotations: list[AnnotationRow] | None
    error: str | None
    version: str | None


class InstanceRow(TypedDict):
    """A value of the INSTANCE struct: one predicted object."""

    category: str
    score: float
    box_xyxy: list[float]
    area: int
    rle: str
    similarity: float | None
    predicted_iou: float | None


class PredictionRow(TypedDict):
    """A row of PREDICTIONS: the instances found in one photo, or the error that kept it from being labeled."""

    image_id: str
    height: int | None
    width: int | None
    status: Literal["ok", "failed"]
    error: str | None
    instances: list[InstanceRow]
    version: str | None


class MatchRow(TypedDict):
    """A row of MATCHES: whether one object was found, missed or reported wrongly."""

    image_id: str
    category: str
    kind: MatchKind
    prediction: int | None
    truth: int | None
    iou: float
    score: float | None
    area: int


def labeled_size_hw(row: PredictionRow) -> tuple[int, int]:
    """Return the (h, w) in pixels of a photo that was labeled, from its row."""
    height, width = row["height"], row["width"]
    assert height is not None, f"{row['image_id']!r} was labeled, so its size is known"
    assert width is not None, f"{row['image_id']!r} was labeled, so its size is known"
    return height, width
