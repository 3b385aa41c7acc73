"""Ground truth as ANNOTATION rows (`data.schema`): made from a mask, merged by category, checked against the photo.

Masks are COCO run-length strings over the photo's (height, width).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from persam_ray.data.schema import annotation_row
from persam_ray.errors import PersamRayError
from persam_ray.images import decode_image
from persam_ray.masks import check_rle, encode_rle, rle_object, tight_box
from persam_ray.types import BoolArray, ByteArray


class BadAnnotationError(PersamRayError, ValueError):
    """The ground truth of an image cannot be used; the message says why, for the row's `error` column."""


def from_mask(category: str, mask_hw: BoolArray) -> dict[str, Any]:
    """Return a non-empty mask (h, w) as an ANNOTATION row: its RLE, its tight box and its area, in pixels."""
    x_min, y_min, x_max, y_max = tight_box(mask_hw)
    return annotation_row(
        category,
        encode_rle(mask_hw),
        bbox_xywh=(x_min, y_min, x_max - x_min, y_max - y_min),
        area=float(np.count_nonzero(mask_hw)),
    )


def category_mask(annotations: Sequence[Mapping[str, Any]], category: str, size_hw: tuple[int, int]) -> BoolArray:
    """Return the union of a category's masks, crowds left out: (h, w) bool, all False if there is none.

    Raises:
        BadAnnotationError: An annotation's mask does not fit the size.
    """
    coded = category_rle(annotations, category, size_hw)
    if coded is None:
        return np.zeros(size_hw, dtype=np.bool_)
    return np.asarray(coco_mask.decode(coded), dtype=np.bool_)


def category_rle(
    annotations: Sequence[Mapping[str, Any]], category: str, size_hw: tuple[int, int]
) -> dict[str, object] | None:
    """Return the union of a category's masks, crowds left out, as pycocotools' RLE object; None if there is none.

    Raises:
        BadAnnotationError: An annotation's mask does not fit the size.
    """
    masks = [row["rle"] for row in annotations if row["category"] == category and not row.get("iscrowd")]
    for rle in masks:
        checked_rle(rle, size_hw, f"annotation of {category!r}")
    if not masks:
        return None
    merged: dict[str, object] = coco_mask.merge([rle_object(rle, size_hw) for rle in masks])
    return merged


def annotated_photo(row: Mapping[str, Any]) -> ByteArray:
    """Return the photo of a READ row, uint8 RGB (h, w, 3), having checked that its annotations fit it.

    Raises:
        BadImageError: The photo cannot be decoded.
        BadAnnotationError: The row has an error, or `check_truth` finds one.
    """
    if row["error"]:
        raise BadAnnotationError(row["error"])
    image_hw3 = decode_image(row["image"] or b"")
    check_truth(row, (image_hw3.shape[0], image_hw3.shape[1]))
    return image_hw3


def check_truth(row: Mapping[str, Any], size_hw: tuple[int, int]) -> None:
    """Check that the annotations of an IMAGES row are valid masks of its photo's size; null annotations pass.

    Args:
        row: A row of IMAGES; its `height` and `width` may be null.
        size_hw: (h, w) of the photo in pixels.

    Raises:
        BadAnnotationError: The stated size is another, or an annotation lacks its category or a valid mask or area.
    """
    if row["annotations"] is None:
        return
    stated_hw = (row["height"] or size_hw[0], row["width"] or size_hw[1])
    if stated_hw != size_hw:
        raise BadAnnotationError(
            f"the annotations are for an image of {stated_hw[1]} x {stated_hw[0]} pixels, but the photo is "
            f"{size_hw[1]} x {size_hw[0]}"
        )
    for annotation in row["annotations"]:
        if annotation is None or annotation["category"] is None or annotation["rle"] is None:
            raise BadAnnotationError(f"an annotation lacks its category or its mask: {annotation!r:.80}")
        name = f"annotation of {annotation['category']!r}"
        checked_rle(annotation["rle"], size_hw, name)
        check_area(annotation["area"], name)


def check_area(area: float | None, name: str) -> None:
    """Raise BadAnnotationError unless an annotation's area is a number of pixels, at least 0; None passes."""
    if area is not None and not 0 <= area < math.inf:
        raise BadAnnotationError(f"{name}: `area` must be a number of pixels, at least 0, but is {area}")


def checked_rle(rle: str, size_hw: tuple[int, int], name: str) -> str:
    """Return a run-length string unchanged, after checking that it encodes a mask of that size.

    Raises:
        BadAnnotationError: The string does not encode such a mask; the message begins with `name`.
    """
    try:
        check_rle(rle, size_hw)
    except ValueError as error:
        raise BadAnnotationError(f"{name}: {error}") from error
    return rle
