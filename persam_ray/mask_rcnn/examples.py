"""Annotated photos as examples to learn from: made small enough to keep, then augmented anew for each step.

A 12-megapixel photo with 3 masks (72 MB) comes in, 1.3 MB stay; an augmented copy has the model's frame, 384 x 576 on a
CPU.

Suffixes: h w rows and columns, n instances.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torchvision.transforms.v2 import functional as colour

from persam_ray.images import resize
from persam_ray.mask_rcnn.model import MaskRcnnSpec
from persam_ray.mask_rcnn.settings import FewShotSettings
from persam_ray.types import BoolArray, ByteArray

LEAST_PIXELS = 16
"""Instances that a crop or a resize leaves fewer pixels of are dropped: 4 x 4 is one cell of the finest features."""


@dataclass(frozen=True)
class Example:
    """One annotated photo and its objects.

    Attributes:
        image_id: Unique among the examples.
        image_hw3: RGB, uint8.
        masks_nhw: bool, each with at least one pixel; n may be 0.
        labels_n: int64, class of each mask, from 1.
        iscrowd_n: bool, True for a region that holds objects which were not told apart: no object to learn from.

    Raises:
        ValueError: Types, shapes or values are not these.
    """

    image_id: str
    image_hw3: ByteArray
    masks_nhw: BoolArray
    labels_n: npt.NDArray[np.int64]
    iscrowd_n: BoolArray

    def __post_init__(self) -> None:
        image, masks, labels, crowd = self.image_hw3, self.masks_nhw, self.labels_n, self.iscrowd_n
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise self._error(f"the image must be uint8 of shape (h, w, 3), but got {image.dtype} of {image.shape}")
        if masks.dtype != np.bool_ or masks.ndim != 3 or masks.shape[1:] != image.shape[:2]:
            raise self._error(
                f"masks must be bool of shape (n, {image.shape[0]}, {image.shape[1]}), but got {masks.dtype} of "
                f"{masks.shape}"
            )
        typed = labels.dtype == np.int64 and crowd.dtype == np.bool_
        if not typed or not labels.shape == crowd.shape == masks.shape[:1]:
            raise self._error(
                f"labels and iscrowd must be int64 and bool of shape ({len(masks)},), but got {labels.dtype} of "
                f"{labels.shape} and {crowd.dtype} of {crowd.shape}"
            )
        if (labels < 1).any():
            raise self._error(f"labels start at 1 (0 is the background), but got {labels.tolist()}")
        if not masks.any(axis=(1, 2)).all():
            raise self._error(f"mask {int(np.argmin(masks.any(axis=(1, 2))))} is empty")

    def _error(self, reason: str) -> ValueError:
        return ValueError(f"example {self.image_id!r}: {reason}")


def prepare(examples: Iterable[Example], spec: MaskRcnnSpec, settings: FewShotSettings) -> dict[str, Example]:
    """Make examples small enough to keep and free of crowds, by image_id, one after the other.

    A 12-megapixel photo with 3 masks is 72 MB and takes 60 ms to resize; from here on it is 1.3 MB.

    Raises:
        ValueError: No example holds an object of a category, two have one image_id, or a label has no category.
    """
    prepared: dict[str, Example] = {}
    for example in examples:
        if example.image_id in prepared:
            raise ValueError(f"two examples have the image_id {example.image_id!r}")
        if example.labels_n.max(initial=0) > len(spec.categories):
            raise ValueError(
                f"example {example.image_id!r}: label {example.labels_n.max()} is beyond the {len(spec.categories)} "
                f"categories ({', '.join(spec.categories)})"
            )
        prepared[example.image_id] = _without_crowds(_shrunk(example, spec, settings))
    held = {label for example in prepared.values() for label in example.labels_n.tolist()}
    for label, category in enumerate(spec.categories, 1):
        if label not in held:
            raise ValueError(f"none of the {len(prepared)} examples holds an object of {category}")
    return dict(sorted(prepared.items()))


def _shrunk(example: Example, spec: MaskRcnnSpec, settings: FewShotSettings) -> Example:
    photo_hw = _size(example)
    largest_hw = _scaled(spec.frame_hw(photo_hw), settings.scale)
    return _resized(example, largest_hw) if largest_hw < photo_hw else example


def _without_crowds(example: Example) -> Example:
    """Paint crowds over with the photo's mean colour: they are no objects, but no background to learn from either."""
    crowd_n = example.iscrowd_n
    if not crowd_n.any():
        return example
    image_hw3 = example.image_hw3.copy()
    crowd_hw = example.masks_nhw[crowd_n].any(axis=0) & ~example.masks_nhw[~crowd_n].any(axis=0)
    image_hw3[crowd_hw] = image_hw3.mean(axis=(0, 1)).astype(np.uint8)
    return Example(
        example.image_id, image_hw3, example.masks_nhw[~crowd_n], example.labels_n[~crowd_n], crowd_n[~crowd_n]
    )


def augment(example: Example, spec: MaskRcnnSpec, settings: FewShotSettings, seed: int) -> Example:
    """Resize to the model's frame times a random factor, crop what exceeds the frame, mirror, change the colours.

    The masks go with the photo; instances that vanish are dropped.
    """
    random = np.random.default_rng(seed)
    frame_hw = spec.frame_hw(_size(example))
    limit = math.log(settings.scale)
    example = _resized(example, _scaled(frame_hw, math.exp(random.uniform(-limit, limit))))
    example = _cropped(example, frame_hw, random.random(2))
    if random.random() < 0.5:
        example = _with_masks(example, example.image_hw3[:, ::-1], example.masks_nhw[:, :, ::-1])
    return replace(example, image_hw3=_recoloured(example.image_hw3, settings, random))


def _size(example: Example) -> tuple[int, int]:
    return example.image_hw3.shape[0], example.image_hw3.shape[1]


def _scaled(size_hw: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(size_hw[0] * factor)), max(1, round(size_hw[1] * factor))


def _resized(example: Example, size_hw: tuple[int, int]) -> Example:
    masks = [
        cv2.resize(mask_hw.astype(np.uint8) * 255, size_hw[::-1], interpolation=cv2.INTER_AREA) > 127
        for mask_hw in example.masks_nhw
    ]
    return _with_masks(example, resize(example.image_hw3, size_hw), np.array(masks, dtype=np.bool_))


def _cropped(example: Example, size_hw: tuple[int, int], place_2: npt.NDArray[np.float64]) -> Example:
    """Cut a window of at most a size; its place (0 top or left, 1 bottom or right) is where the photo exceeds it."""
    top, left = (
        int(place * (have - want + 1)) if have > want else 0
        for place, have, want in zip(place_2, _size(example), size_hw, strict=True)
    )
    window = slice(top, top + size_hw[0]), slice(left, left + size_hw[1])
    return _with_masks(example, example.image_hw3[window], example.masks_nhw[:, *window])


def _with_masks(example: Example, image_hw3: ByteArray, masks_nhw: BoolArray) -> Example:
    """Return the example with another photo and masks, without the instances of which too little is left."""
    masks_nhw = masks_nhw.reshape(-1, *image_hw3.shape[:2])  # of no masks too
    kept_n = masks_nhw.sum(axis=(1, 2)) >= LEAST_PIXELS
    return Example(example.image_id, image_hw3, masks_nhw[kept_n], example.labels_n[kept_n], example.iscrowd_n[kept_n])


def _recoloured(image_hw3: ByteArray, settings: FewShotSettings, random: np.random.Generator) -> ByteArray:
    brightness, contrast, saturation = random.uniform(1 - settings.colour, 1 + settings.colour, size=3)
    pixels = torch.from_numpy(image_hw3.copy()).permute(2, 0, 1)
    pixels = colour.adjust_brightness(pixels, brightness)
    pixels = colour.adjust_contrast(pixels, contrast)
    pixels = colour.adjust_saturation(pixels, saturation)
    pixels = colour.adjust_hue(pixels, random.uniform(-settings.hue, settings.hue))
    return np.asarray(pixels.permute(1, 2, 0))
