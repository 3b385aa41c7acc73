"""The options of the jobs around Mask R-CNN: training, labeling with it, and the benchmark against PerSAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from persam_ray.config import ConfigError, JobConfig, LabelingConfig, Repeated, check_between, require, split_ids

if TYPE_CHECKING:
    from persam_ray.few_shot import FewShotSettings

Objects = Literal["mask", "component"]
Backbone = Literal["auto", "mobilenet_v2", "resnet50_fpn", "resnet50_fpn_v2"]
Ids = Annotated[Repeated, tyro.conf.arg(metavar="ID,ID,...")]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(JobConfig):
    """How Mask R-CNN is trained."""

    train_ids: Ids = ()
    """Train on these images, whatever they hold; for PerSAM the first that holds the category is the reference."""

    backbone: Backbone = "auto"
    """Of Mask R-CNN; auto is resnet50_fpn_v2 where there is a GPU, else the light mobilenet_v2."""

    start: str = "auto"
    """Weights that training starts from: coco (torchvision's detector, for the resnets), imagenet (torchvision's
    classifier), none, or the path or URL of a detector's or a classifier's weights in torchvision's naming. auto is
    coco where there is one, else imagenet."""

    steps: int = 500
    """Optimiser steps."""

    photos_per_step: int = 2
    """Photos in a step, of all workers together; a multiple of --workers."""

    epoch_steps: int = 25
    """An epoch is so many steps, after which loss and learning rate are reported and a checkpoint is written; of ten
    photos, and two in a step, each is seen five times in one."""

    learning_rate: float = 2e-4
    """Highest learning rate of AdamW."""

    objects: Objects = "mask"
    """What an object is, in training as in judging: an annotated mask, or each connected part of it (above 0.1% of the
    image, in training)."""

    workers: int = 1
    """Training processes, each with a GPU where there are any."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the networks (of SAM, its encoder); auto is bfloat16 where that is faster."""

    seed: int = 0
    """Of everything that is random: the choice of images, initial weights, order, augmentation, sampling."""

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
        """All that the job reads, the start weights among it."""
        named = {"auto", "none", "coco", "imagenet"}
        return super().inputs if self.start in named else (*super().inputs, self.start)

    @property
    def settings(self) -> FewShotSettings:
        """What the optimiser is told."""
        from persam_ray.few_shot import FewShotSettings

        return FewShotSettings(
            steps=self.steps, photos_per_step=self.photos_per_step, learning_rate=self.learning_rate, seed=self.seed
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig(TrainingConfig):
    """Train Mask R-CNN on a few annotated photos.

    Example: python jobs/train_mask_rcnn.py --images shards --category top --train-images 10 --output detector
    """

    category: Annotated[Repeated, tyro.conf.arg(metavar="NAME")]
    """Category to find; repeat for more."""

    train_images: int | None = None
    """Train on so many images, drawn from those that hold a category; by default on all of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.category), "--category is needed")
        require(len(set(self.category)) == len(self.category), "--category names one category twice")
        require(not (self.train_ids and self.train_images), "--train-images does not go with --train-ids")
        require(self.train_images is None or self.train_images >= 1, "--train-images must be at least 1")


@dataclass(frozen=True, kw_only=True)
class PredictConfig(LabelingConfig):
    """Label every photo of a bucket by a trained Mask R-CNN.

    Example: python jobs/predict_mask_rcnn.py --images s3://bucket/photos --checkpoint detector --output s3://bucket/labels
    """

    checkpoint: str
    """Output of jobs/train_mask_rcnn.py, or its mask_rcnn.safetensors."""

    least_score: float = 0.05
    """Instances of at most this score, 0 to 1, are not kept."""

    instances_per_image: int = 100
    """Only so many are kept, by score."""

    score_threshold: float = 0.5
    """Instances of at least this score, 0 to 1, count for TP, FP, FN and mIoU where there is ground truth."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the network; auto is bfloat16 where that is faster."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.checkpoint != "", "--checkpoint must not be empty")
        for name in ("least_score", "score_threshold"):
            check_between(f"--{name.replace('_', '-')}", getattr(self, name), 0, 1)
        require(self.instances_per_image >= 1, "--instances-per-image must be at least 1")


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(TrainingConfig):
    """Compare Mask R-CNN trained on a few images with PerSAM and PerSAM-F, which are given the first of them.

    Example: python jobs/benchmark.py --images photos --category top --train-images 10 --test-images 300
    --output comparison
    """

    demo: bool = False
    """Try the job without photos or downloads: 70 photos are drawn into demo/scenes and the methods compared on
    finding tops in them, with the small SAM that comes along, into demo/benchmark. Other options may be given beside
    it."""

    category: str
    """Category to find."""

    train_images: int | None = None
    """So many images to train on (10, unless --train-ids are given), drawn from those in which the category covers at
    least a hundredth of the image."""

    test_images: int | None = None
    """So many images to judge (300, unless --test-ids are given), drawn from all other annotated ones, whether they
    hold the category or not."""

    test_ids: Ids = ()
    """Judge these images instead."""

    objects: Objects = "component"
    """What an object is, in predictions, truth and training alike: each connected part of a mask (above 0.1% of the
    image, in training), or the whole mask."""

    min_area_fraction: float = 0.001
    """The filtered rows drop objects smaller than this fraction of the image, 0 to 1."""

    detector_score_threshold: float = 0.5
    """Instances of Mask R-CNN of at least this score, 0 to 1, count for TP, FP, FN and mIoU."""

    sam_score_threshold: float = 0.0
    """The same for PerSAM and PerSAM-F, which give each image one mask and a score that is no probability."""

    sam: str = "vit_b"
    """Segment Anything weights: vit_b, vit_l, vit_h or mobile_sam (fetched once, digest verified), demo (small, comes
    along, for drawn photos), or the path or URL of a checkpoint."""

    guidance: Literal["aligned", "official"] = "aligned"
    """Where PerSAM's attention map lies on photos that are not square: as in jobs/label.py."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.category != "", "--category must not be empty")
        for kind in ("train", "test"):
            count = getattr(self, f"{kind}_images")
            require(count is None or count >= 1, f"--{kind}-images must be at least 1")
            both = count is not None and getattr(self, f"{kind}_ids")
            require(not both, f"--{kind}-images does not go with --{kind}-ids")
        for name in ("min_area_fraction", "detector_score_threshold", "sam_score_threshold"):
            check_between(f"--{name.replace('_', '-')}", getattr(self, name), 0, 1)
        shared = set(split_ids(self.train_ids)) & set(split_ids(self.test_ids))
        require(not shared, f"--train-ids and --test-ids share {sorted(shared)[:1]}: judge on images not trained on")
