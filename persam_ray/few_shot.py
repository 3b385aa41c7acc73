"""Training Mask R-CNN on about ten annotated photos: examples, augmentation, losses, one step of the optimiser.

    losses = TrainingLosses(model)         # or DistributedDataParallel around it
    examples = prepare(examples, model.spec, settings)
    optimiser, schedule = make_optimiser(losses, settings)
    for step in range(settings.steps):
        batch = make_batch(examples, model.spec, settings, step, rank, workers)
        values = train_step(losses, optimiser, schedule, batch, settings)

A step's loss is the mean of its photos' losses, each computed alone (torchvision would pad photos to a common size and
average over all boxes sampled in a batch). Workers take equal shares of a step's photos, so the mean of their gradients
is the gradient of the step. All that is random follows from (seed, epoch, image_id): neither the number of workers nor
the order in which examples were read changes it.

Suffixes name the axes: h w rows and columns, n instances.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torchvision.transforms.v2 import functional as colour

from persam_ray.images import resize
from persam_ray.mask_rcnn import MaskRcnn, MaskRcnnSpec
from persam_ray.masks import tight_box
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


@dataclass(frozen=True)
class FewShotSettings:
    """How a handful of photos is trained on. The defaults are for ten photos and two CPU cores (8 minutes).

    Attributes:
        steps: Optimiser steps.
        photos_per_step: Of all workers together; a multiple of their number.
        learning_rate: Highest rate of AdamW; reached after `warmup` of the steps, then a cosine to 0.
        weight_decay: AdamW's, on weights of two and more dimensions.
        warmup: Part of the steps, in [0, 1]: the heads are random, and so are their first gradients.
        clip_norm: Longest gradient.
        scale: Photos are enlarged or reduced by up to this factor; 1 is off.
        colour: Brightness, contrast and saturation change by factors up to 1 +- this, in [0, 1].
        hue: Hue turns by up to this part of the circle, in [0, 0.5].
        seed: Of the order of photos, of augmentation and of the boxes that losses sample.
    """

    steps: int = 500
    photos_per_step: int = 2
    learning_rate: float = 2e-4
    weight_decay: float = 0.05
    warmup: float = 0.05
    clip_norm: float = 1.0
    scale: float = 1.4
    colour: float = 0.4
    hue: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("steps", 1, math.inf),
            ("photos_per_step", 1, math.inf),
            ("learning_rate", 1e-12, math.inf),
            ("weight_decay", 0, math.inf),
            ("warmup", 0, 1),
            ("clip_norm", 1e-12, math.inf),
            ("scale", 1, math.inf),
            ("colour", 0, 1),
            ("hue", 0, 0.5),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must be in [{low}, {high}], but got {value}")


# --- examples --------------------------------------------------------------------------------------------------------


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


# --- augmentation ----------------------------------------------------------------------------------------------------


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


# --- steps -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingImage:
    """An augmented example as tensors.

    Attributes:
        image_3hw: RGB, uint8.
        boxes_n4: x_min, y_min, x_max, y_max of each mask, right and lower edge exclusive, float32.
        labels_n: Class of each mask, from 1, int64.
        masks_nhw: uint8, 1 on the instance.
        seed: Of the boxes that the losses sample.
    """

    image_3hw: Tensor
    boxes_n4: Tensor
    labels_n: Tensor
    masks_nhw: Tensor
    seed: int

    @classmethod
    def of(cls, example: Example, seed: int) -> "TrainingImage":
        """Make tensors of an example without crowds."""
        assert not example.iscrowd_n.any()
        boxes = [tight_box(mask_hw) for mask_hw in example.masks_nhw]
        return cls(
            image_3hw=torch.tensor(example.image_hw3.copy()).permute(2, 0, 1),
            boxes_n4=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            labels_n=torch.tensor(example.labels_n),
            masks_nhw=torch.tensor(example.masks_nhw.astype(np.uint8)),
            seed=seed,
        )


def make_batch(
    examples: Mapping[str, Example],
    spec: MaskRcnnSpec,
    settings: FewShotSettings,
    step: int,
    rank: int = 0,
    workers: int = 1,
) -> list[TrainingImage]:
    """Return one worker's augmented photos of a step.

    Photos come in epochs, each in an order of its own, laid end to end: a step may hold the end of one and the start of
    the next, so steps are of one size, whatever the number of examples.

    Raises:
        ValueError: A step's photos cannot be shared evenly.
    """
    if settings.photos_per_step % workers:
        raise ValueError(f"{settings.photos_per_step} photos per step cannot be shared evenly by {workers} workers")
    names = sorted(examples)
    first = step * settings.photos_per_step
    batch = []
    for position in range(first + rank, first + settings.photos_per_step, workers):
        epoch, index = divmod(position, len(names))
        order = np.random.default_rng(seed_of(settings.seed, epoch)).permutation(len(names))
        name = names[order[index]]
        seed = seed_of(settings.seed, epoch, name)
        batch.append(TrainingImage.of(augment(examples[name], spec, settings, seed), seed))
    return batch


def seed_of(*parts: object) -> int:
    """Return 63 bits that follow from the parts, on every machine and in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


class TrainingLosses(nn.Module):
    """A model's losses as a forward pass, which is where DistributedDataParallel gathers gradients."""

    def __init__(self, model: MaskRcnn) -> None:
        super().__init__()
        self.detector = model.detector

    def forward(self, batch: Sequence[TrainingImage]) -> dict[str, Tensor]:
        """Return the five losses (scalars), each the mean over the batch's images."""
        losses = [self._losses(image) for image in batch]
        return {name: torch.stack([loss[name] for loss in losses]).mean() for name in losses[0]}

    def _losses(self, image: TrainingImage) -> dict[str, Tensor]:
        like = next(self.parameters())
        device = like.device
        target = {"labels": image.labels_n.to(device), "masks": image.masks_nhw.to(device)}
        target["boxes"] = image.boxes_n4.to(like)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(image.seed)  # torchvision samples boxes with the global generators
            losses: dict[str, Tensor] = self.detector([image.image_3hw.to(like) / 255], [target])
        return losses


def make_optimiser(model: nn.Module, settings: FewShotSettings) -> tuple[AdamW, LambdaLR]:
    """Return AdamW over the layers that are not frozen, and its schedule: linear warm-up, then a cosine to 0."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trained if parameter.ndim > 1]
    others = [parameter for parameter in trained if parameter.ndim == 1]  # norms and biases
    optimiser = AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=settings.learning_rate,
    )

    def factor(step: int) -> float:
        return learning_rate_factor(step, settings.steps, settings.warmup)

    return optimiser, LambdaLR(optimiser, factor)


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Return the part of the highest learning rate at a step: a linear warm-up, then a cosine to 0."""
    warmup_steps = max(1, round(warmup * steps))
    return min(1.0, (step + 1) / warmup_steps) * (1 + math.cos(math.pi * min(1.0, step / steps))) / 2


def train_step(
    model: nn.Module, optimiser: AdamW, schedule: LambdaLR, batch: Sequence[object], settings: FewShotSettings
) -> dict[str, float]:
    """Take one step; return the losses by name, their sum under `loss`.

    Raises:
        RuntimeError: The gradient is not finite: training diverged.
    """
    model.train()
    losses: dict[str, Tensor] = model(batch)
    total = torch.stack(list(losses.values())).sum()
    optimiser.zero_grad()
    torch.autograd.backward(total)
    nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm, error_if_nonfinite=True)
    optimiser.step()
    schedule.step()
    return {name: value.item() for name, value in (losses | {"loss": total}).items()}
