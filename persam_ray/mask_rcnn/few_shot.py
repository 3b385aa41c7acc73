"""Training Mask R-CNN on about ten annotated photos: examples, augmentation, losses, one step of the optimiser.

    losses = TrainingLosses(model)         # or DistributedDataParallel around it
    examples = prepare(examples, model.spec, settings)
    optimiser, schedule = make_optimiser(losses, settings)
    for step in range(settings.steps):
        batch = make_batch(examples, model.spec, settings, step, rank, workers)
        values = train_step(losses, optimiser, schedule, batch, settings)

A step's loss is the mean of its photos' losses, each computed alone (torchvision would pad photos to a common size and
average over all boxes sampled in a batch). Workers take equal shares of a step's photos, so the mean of their gradients
is the gradient of the step. Every random choice follows from (seed, epoch, image_id): neither the number of workers nor
the order in which examples were read changes it.

Suffixes name the axes: h w rows and columns, n instances.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from persam_ray.mask_rcnn.examples import Example, augment
from persam_ray.mask_rcnn.model import MaskRcnn, MaskRcnnSpec
from persam_ray.mask_rcnn.settings import FewShotSettings
from persam_ray.masks import tight_box


@dataclass(frozen=True)
class TrainingImage:
    """An augmented example as tensors.

    Attributes:
        image_3hw: RGB, uint8.
        boxes_n4: x_min, y_min, x_max, y_max of each mask, right and lower edge exclusive, float32.
        labels_n: Class of each mask, from 1, int64.
        masks_nhw: uint8, 1 on the instance.
        seed: Seed of the boxes that the losses sample.
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
    the next, so all steps have one size for any number of examples.

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
