"""The options of `persam-ray predict-mask-rcnn`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from persam_ray.options.base import LabelingConfig, check_between, require


@dataclass(frozen=True, kw_only=True)
class PredictConfig(LabelingConfig):
    """Label every photo of a bucket by a trained Mask R-CNN.

    Example: persam-ray predict-mask-rcnn --images s3://bucket/photos --checkpoint detector --output s3://bucket/labels
    """

    checkpoint: str
    """Output of `persam-ray train-mask-rcnn`, or its mask_rcnn.safetensors."""

    least_score: float = 0.05
    """Instances of at most this score, 0 to 1, are not kept."""

    instances_per_image: int = 100
    """Only so many are kept, by score."""

    score_threshold: float = 0.5
    """Instances of at least this score, 0 to 1, count for TP, FP, FN and mIoU where there is ground truth."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type that the network computes in; auto is bfloat16 where that is faster."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.checkpoint != "", "--checkpoint must not be empty")
        for name in ("least_score", "score_threshold"):
            check_between(f"--{name.replace('_', '-')}", getattr(self, name), 0, 1)
        require(self.instances_per_image >= 1, "--instances-per-image must be at least 1")
