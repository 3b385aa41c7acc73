"""Annotated rows as examples that Mask R-CNN learns from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from persam_ray.data.annotations import BadAnnotationError, annotated_photo
from persam_ray.errors import PersamRayError
from persam_ray.images import BadImageError
from persam_ray.mask_rcnn.examples import Example
from persam_ray.masks import components, decode_rle, drop_small_components
from persam_ray.types import BoolArray, Objects

LEAST_FRACTION = 0.001
"""Connected parts of a mask that cover less than this fraction of the image are specks, and are not learned from."""


class ExampleError(PersamRayError, ValueError):
    """An image cannot be trained on; the message names it and says why."""


def make_example(row: Mapping[str, Any], categories: Sequence[str], objects: Objects) -> Example:
    """Return the photo of a READ row with the objects of some categories; everything else is background.

    Empty masks are left out. Annotated boxes are ignored, because boxes follow from the masks.

    Args:
        row: A row of READ.
        categories: Names of the categories to learn; labels count from 1 in their order.
        objects: `mask` takes each annotation as one object, `component` each connected part of it. Crowds stay whole.

    Raises:
        ExampleError: The photo or its annotations cannot be used.
    """
    try:
        image_hw3 = annotated_photo(row)
    except (BadImageError, BadAnnotationError) as error:
        raise ExampleError(f"training image {row['image_id']!r}: {error}") from error
    size_hw = (image_hw3.shape[0], image_hw3.shape[1])
    found: list[tuple[BoolArray, int, bool]] = []
    for annotation in row["annotations"] or ():
        if annotation["category"] in categories:
            label, is_crowd = 1 + categories.index(annotation["category"]), bool(annotation["iscrowd"])
            mask_hw = decode_rle(annotation["rle"], size_hw)
            parts = [mask_hw] if is_crowd or objects == "mask" else _parts(mask_hw)
            found += [(part_hw, label, is_crowd) for part_hw in parts if part_hw.any()]
    masks, labels, crowds = zip(*found, strict=True) if found else ((), (), ())
    return Example(
        row["image_id"],
        image_hw3,
        np.array(masks, dtype=np.bool_).reshape(-1, *size_hw),
        np.array(labels, dtype=np.int64),
        np.array(crowds, dtype=np.bool_),
    )


def _parts(mask_hw: BoolArray) -> list[BoolArray]:
    return components(drop_small_components(mask_hw, LEAST_FRACTION))
