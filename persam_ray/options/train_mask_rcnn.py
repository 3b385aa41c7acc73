"""The options of `persam-ray train-mask-rcnn`, most of which `benchmark` shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from persam_ray.errors import ConfigError
from persam_ray.options.base import JobConfig, Repeated, check_between, require, split_ids
from persam_ray.types import Objects

if TYPE_CHECKING:
    from persam_ray.mask_rcnn.settings import FewShotSettings


Backbone = Literal["auto", "mobilenet_v2", "resnet50_fpn", "resnet50_fpn_v2"]


Ids = Annotated[Repeated, tyro.conf.arg(metavar="ID,ID,...")]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(JobConfig):
    """How Mask R-CNN is trained."""

    train_ids: Ids = ()
    """Train on these images, whatever they show.
    In the benchmark, the first that holds the category is the reference of PerSAM."""

    backbone: Backbone = "auto"
    """Backbone of Mask R-CNN; auto is resnet50_fpn_v2 where there is a GPU, else the light mobilenet_v2."""

    start: str = "auto"
    """Weights that training starts from: coco (torchvision's detector; not for mobilenet_v2), imagenet
    (torchvision's classifier), none, or the path or URL of weights with torchvision's tensor names.
    auto is coco where torchvision has it, else imagenet."""

    steps: int = 500
    """Number of optimiser steps."""

    photos_per_step: int = 2
    """Photos in one step, over all workers; a multiple of --workers."""

    epoch_steps: int = 25
    """Steps in one epoch, after which loss and learning rate are reported and a checkpoint is written.
    With ten photos and two in a step, 25 steps show each photo five times."""

    learning_rate: float = 2e-4
    """Highest learning rate of AdamW."""

    objects: Objects = "mask"
    """What counts as one object: an annotated mask (mask), or each connected part of it (component).
    Training leaves out parts below 0.1% of the image."""

    workers: int = 1
    """Number of training processes; each gets a GPU where there are any."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number type that the networks compute in; auto is bfloat16 where that is faster."""

    seed: int = 0
    """Seed of everything random: choice of images, initial weights, order, augmentation, sampling; 0 or more."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "photos_per_step", "epoch_steps", "workers"):
            value = getattr(self, name)
            require(value >= 1, f"--{name.replace('_', '-')} must be at least 1, but is {value}")
        require(self.seed >= 0, f"--seed must be at least 0, but is {self.seed}")
        if self.photos_per_step % self.workers:
            raise ConfigError(
                f"--photos-per-step must be a multiple of --workers ({self.workers}), but is {self.photos_per_step}"
            )
        check_between("--learning-rate", self.learning_rate, 1e-12, 1)
        for name in ("train_ids", "test_ids"):
            ids = split_ids(getattr(self, name, ()))
            require(len(set(ids)) == len(ids), f"--{name.replace('_', '-')} names an image twice")
        if self.backbone == "mobilenet_v2" and self.start == "coco":
            raise ConfigError("--start coco: torchvision has none for mobilenet_v2; allowed: imagenet, none, or a URI")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Everything that the job reads, the start weights included."""
        named = {"auto", "none", "coco", "imagenet"}
        return super().inputs if self.start in named else (*super().inputs, self.start)

    @property
    def settings(self) -> FewShotSettings:
        """What the optimiser is told."""
        from persam_ray.mask_rcnn.settings import FewShotSettings

        return FewShotSettings(
            steps=self.steps, photos_per_step=self.photos_per_step, learning_rate=self.learning_rate, seed=self.seed
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig(TrainingConfig):
    """Train Mask R-CNN on a few annotated photos.

    Example: persam-ray train-mask-rcnn --images shards --category top --train-images 10 --output detector
    """

    category: Annotated[Repeated, tyro.conf.arg(metavar="NAME")]
    """Category to find. Repeat it for more."""

    train_images: int | None = None
    """Number of images to train on, drawn from those that hold a category. Default: all of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.category), "--category is needed")
        require(len(set(self.category)) == len(self.category), "--category names one category twice")
        require(not (self.train_ids and self.train_images), "--train-images does not go with --train-ids")
        require(self.train_images is None or self.train_images >= 1, "--train-images must be at least 1")
