"""Ground truth of other formats as ANNOTATION rows: index maps of DeepFashion, polygons and RLE of COCO."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from persam_ray.images import MAX_PIXELS, open_image
from persam_ray.masks import check_rle, encode_rle, rle_object, tight_box
from persam_ray.schema import annotation_row
from persam_ray.types import BoolArray

DEEPFASHION_CATEGORIES = (
    "background", "top", "outer", "skirt", "dress", "pants", "leggings", "headwear", "eyeglass", "neckwear", "belt",
    "footwear", "bag", "hair", "face", "skin", "ring", "wrist wearing", "socks", "gloves", "necklace", "rompers",
    "earrings", "tie",
)  # fmt: skip
"""The classes of DeepFashion-MultiModal's `segm` maps, by index."""

MAX_COORDINATE_PX = 100_000
"""Points of a polygon may lie outside the image, but not farther than this: drawing takes memory for every pixel."""


class BadAnnotationError(ValueError):
    """The ground truth of an image cannot be used; the message says why, for the row's `error` column."""


def from_index_map(encoded: bytes) -> tuple[list[dict[str, Any]], tuple[int, int]]:
    """Read a DeepFashion-MultiModal `segm` PNG.

    Returns:
        One annotation per class that occurs (its whole mask), and the map's (h, w).

    Raises:
        BadAnnotationError: Not a single-channel image of class indices.
    """
    try:
        index_hw = np.asarray(open_image(encoded))
    except Exception as error:  # Pillow raises many types for damaged files
        raise BadAnnotationError(f"the segm map cannot be read: {error}") from error
    if index_hw.ndim != 2 or index_hw.dtype.kind not in "ui" or index_hw.max() >= len(DEEPFASHION_CATEGORIES):
        raise BadAnnotationError(
            f"the segm map must be one channel of class indices 0 to {len(DEEPFASHION_CATEGORIES) - 1}, but it is "
            f"{index_hw.dtype} of shape {index_hw.shape} with values up to {index_hw.max()}"
        )
    rows = [from_mask(DEEPFASHION_CATEGORIES[index], index_hw == index) for index in np.unique(index_hw) if index > 0]
    return rows, (index_hw.shape[0], index_hw.shape[1])


def from_mask(category: str, mask_hw: BoolArray) -> dict[str, Any]:
    """Describe a mask (not empty) as an annotation."""
    x_min, y_min, x_max, y_max = tight_box(mask_hw)
    return annotation_row(
        category,
        encode_rle(mask_hw),
        bbox_xywh=(x_min, y_min, x_max - x_min, y_max - y_min),
        area=float(np.count_nonzero(mask_hw)),
    )


def from_coco(
    annotations: Iterable[Mapping[str, Any]], category_names: Mapping[int, str], size_hw: tuple[int, int]
) -> list[dict[str, Any]]:
    """Read the annotations of one image of a COCO `instances` file: polygons, uncompressed or compressed RLE.

    Raises:
        BadAnnotationError: One of them is malformed, or of another size than the image; the message has its id.
    """
    if min(size_hw) < 1 or size_hw[0] * size_hw[1] > MAX_PIXELS:
        raise BadAnnotationError(
            f"the annotations give the image a size of {size_hw[1]} x {size_hw[0]} pixels; allowed are 1 to "
            f"{MAX_PIXELS / 1e6:.0f} megapixels"
        )
    return [_from_coco_annotation(annotation, category_names, size_hw) for annotation in annotations]


def _from_coco_annotation(
    annotation: Mapping[str, Any], category_names: Mapping[int, str], size_hw: tuple[int, int]
) -> dict[str, Any]:
    name = f"annotation {annotation.get('id', '?')}"
    category_id = annotation.get("category_id")
    if not isinstance(category_id, (int, float)) or category_id not in category_names:
        raise BadAnnotationError(f"{name}: category_id {category_id!r} is not in `categories`")
    rle = _coco_rle(annotation.get("segmentation"), size_hw, name)
    coded = rle_object(rle, size_hw)
    try:
        x, y, width, height = map(float, annotation.get("bbox") or coco_mask.toBbox(coded))
        area = float(annotation.get("area") or coco_mask.area(coded))
    except (TypeError, ValueError) as error:
        raise BadAnnotationError(f"{name}: `bbox` must be four numbers and `area` one ({error})") from error
    _check_area(area, name)
    return annotation_row(
        category_names[int(category_id)],
        rle,
        bbox_xywh=(x, y, width, height),
        area=area,
        iscrowd=bool(annotation.get("iscrowd", 0)),
    )


def category_mask(annotations: Sequence[Mapping[str, Any]], category: str, size_hw: tuple[int, int]) -> BoolArray:
    """Return where any instance of a category lies (crowds left out), (h, w) bool.

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
    """Return the union of a category's instances (crowds left out) in pycocotools' form; None if there is none.

    Raises:
        BadAnnotationError: An annotation's mask does not fit the size.
    """
    masks = [row["rle"] for row in annotations if row["category"] == category and not row.get("iscrowd")]
    for rle in masks:
        _checked(rle, size_hw, f"annotation of {category!r}")
    if not masks:
        return None
    merged: dict[str, object] = coco_mask.merge([rle_object(rle, size_hw) for rle in masks])
    return merged


def check_truth(row: Mapping[str, Any], size_hw: tuple[int, int]) -> None:
    """Raise BadAnnotationError unless the annotations of an IMAGES row are valid masks over its photo's own (h, w)."""
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
        _checked(annotation["rle"], size_hw, name)
        _check_area(annotation["area"], name)


def _check_area(area: float | None, name: str) -> None:
    if area is not None and not 0 <= area < math.inf:
        raise BadAnnotationError(f"{name}: `area` must be a number of pixels, at least 0, but is {area}")


def _coco_rle(segmentation: object, size_hw: tuple[int, int], name: str) -> str:
    height, width = size_hw
    try:
        if isinstance(segmentation, list) and segmentation:
            coded = coco_mask.merge(coco_mask.frPyObjects(_polygons(segmentation, name), height, width))
        elif isinstance(segmentation, dict):
            if list(segmentation.get("size", ())) != [height, width]:
                raise BadAnnotationError(
                    f"{name}: its mask is of size {segmentation.get('size')}, but its image is [{height}, {width}]"
                )
            if isinstance(segmentation["counts"], str):
                return _checked(segmentation["counts"], size_hw, name)
            coded = coco_mask.frPyObjects(segmentation, height, width)
        else:
            raise BadAnnotationError(f"{name}: `segmentation` must be polygons or RLE, but it is {segmentation!r:.80}")
    except BadAnnotationError:
        raise
    except Exception as error:  # pycocotools raises bare Exception, TypeError, IndexError, ...
        raise BadAnnotationError(f"{name}: `segmentation` is malformed ({error})") from error
    return _checked(coded["counts"].decode("ascii"), size_hw, name)


def _polygons(segmentation: Sequence[Any], name: str) -> list[list[float]]:
    """Return the polygons that enclose something, checked: on NaN or far points pycocotools ends the process."""
    kept = []
    for polygon in segmentation:
        xy = np.asarray(polygon, dtype=np.float64)
        if xy.ndim != 1 or len(xy) % 2 or not (np.abs(xy) <= MAX_COORDINATE_PX).all():
            raise BadAnnotationError(
                f"{name}: a polygon must be x, y, x, y, ... within {MAX_COORDINATE_PX} pixels, but is {polygon!r:.80}"
            )
        if len(xy) >= 6:  # one or two points enclose nothing
            kept.append(xy.tolist())
    if not kept:
        raise BadAnnotationError(f"{name}: no polygon of three points or more: {segmentation!r:.80}")
    return kept


def _checked(rle: str, size_hw: tuple[int, int], name: str) -> str:
    try:
        check_rle(rle, size_hw)
    except ValueError as error:
        raise BadAnnotationError(f"{name}: {error}") from error
    return rle
