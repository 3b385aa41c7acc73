"""The objects of an image that are compared, annotated and predicted: checked, split into parts, small ones dropped."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from pycocotools import mask as coco_mask

from persam_ray.masks import check_rle, decode_rle, encode_components, rle_object
from persam_ray.metrics.summary import FloatArray


@dataclass(frozen=True)
class TruthInstance:
    """One annotated object.

    Attributes:
        category: What it is.
        rle: COCO compressed counts string over the image's (h, w).
        area: In pixels, as annotated; it decides the area range. None takes the mask's own.
        iscrowd: True for a region of many objects, in which predictions count neither as right nor as wrong.
    """

    category: str
    rle: str
    area: float | None = None
    iscrowd: bool = False


@dataclass(frozen=True)
class PredictedInstance:
    """One predicted object.

    Attributes:
        category: What it is.
        rle: COCO compressed counts string over the image's (h, w).
        score: In [0, 1]; higher means more surely right.
    """

    category: str
    rle: str
    score: float


Instance = TypeVar("Instance", TruthInstance, PredictedInstance)


@dataclass(frozen=True)
class ImagePair:
    """The truth and the predictions of one image, checked: errors name the image and the instance.

    Attributes:
        image_id: Unique; its hash breaks ties between equal scores of different images.
        size_hw: (h, w) in pixels that all masks share.
        truths: Annotated objects of any category.
        predictions: Predicted objects of any category; of equal scores the earlier goes first.
    """

    image_id: str
    size_hw: tuple[int, int]
    truths: tuple[TruthInstance, ...]
    predictions: tuple[PredictedInstance, ...]

    def __post_init__(self) -> None:
        if min(self.size_hw) < 1:
            raise ValueError(f"image {self.image_id!r}: height and width must be at least 1, but got {self.size_hw}")
        for index, truth in enumerate(self.truths):
            self._check(truth, f"truth {index}")
        for index, prediction in enumerate(self.predictions):
            self._check(prediction, f"prediction {index}")

    def _check(self, instance: TruthInstance | PredictedInstance, name: str) -> None:
        try:
            check_rle(instance.rle, self.size_hw)
            _check_number(instance)
        except ValueError as error:
            raise ValueError(f"image {self.image_id!r}, {name} ({instance.category}): {error}") from error


def _check_number(instance: TruthInstance | PredictedInstance) -> None:
    if isinstance(instance, PredictedInstance):
        if not 0 <= instance.score <= 1:  # NaN is not
            raise ValueError(f"a score must be in [0, 1], but got {instance.score}")
    elif instance.area is not None and not 0 <= instance.area < math.inf:
        raise ValueError(f"an area must be a number of pixels, at least 0, but got {instance.area}")


def split_components(instances: Sequence[Instance], size_hw: tuple[int, int]) -> list[Instance]:
    """Turn each instance into its 8-connected components; crowd regions stay as they are, empty masks vanish.

    Components keep category and score and come largest first, so that COCO's limit of 100 detections, which at equal
    scores goes by position, drops the smallest. A truth component's area is its pixel count.

    Raises:
        ValueError: A run-length string does not fit the size.
    """
    parts: list[Instance] = []
    for instance in instances:
        if isinstance(instance, PredictedInstance):
            parts += [replace(instance, rle=rle) for rle in encode_components(decode_rle(instance.rle, size_hw))]
        elif instance.iscrowd:
            parts.append(instance)
        else:
            components = encode_components(decode_rle(instance.rle, size_hw))
            parts += [replace(instance, rle=rle, area=None) for rle in components]
    return parts


def drop_small(
    instances: Sequence[PredictedInstance], size_hw: tuple[int, int], min_object_fraction: float
) -> list[PredictedInstance]:
    """Return the predictions whose mask covers at least a fraction, in [0, 1], of the image's pixels."""
    areas = mask_areas([instance.rle for instance in instances], size_hw)
    least_px = min_object_fraction * size_hw[0] * size_hw[1]
    return [instance for instance, area_px in zip(instances, areas, strict=True) if area_px >= least_px]


def mask_areas(rles: Sequence[str], size_hw: tuple[int, int]) -> FloatArray:
    """Return the pixels of each mask."""
    # One at a time: pycocotools 2.0.11 with numpy 2 raises OverflowError for a list of more than 255.
    return np.array([coco_mask.area(rle_object(rle, size_hw)) for rle in rles], dtype=np.float64)
