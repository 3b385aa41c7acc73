"""The options of `persam-ray predict-mask-rcnn`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from persam_ray.options.base import LabelingConfig, check_between, require


@dataclass(frozen=True, kw_only=True)
class PredictConfig(LabelingConfig):
    """Label every photo of a folder or bucket with a trained Mask R-CNN.

    Exit status: 0 when every photo was labeled; 3 when the run is complete but some photos could not be used (their
    rows say why); 1 when it stopped early (the same command continues it).

    Example: persam-ray predict-mask-rcnn --images s3://bucket/photos --checkpoint detector --output s3://bucket/labels
    """

    checkpoint: str
    """Output of `persam-ray train-mask-rcnn`, or the file mask_rcnn.safetensors in it; a path or a URL."""

    least_score: float = 0.05
    """Instances are kept when their score, 0 to 1, is above this."""

    instances_per_image: int = 100
    """Largest number of instances kept per photo; those of the highest scores stay."""

    score_threshold: float = 0.5
    """Lowest score, 0 to 1, of the instances that count for TP, FP, FN and mIoU, where photos have ground truth."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number type that the network computes in; auto is bfloat16 where that is faster."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.checkpoint != "", "--checkpoint must not be empty")
        for name in ("least_score", "score_threshold"):
            check_between(f"--{name.replace('_', '-')}", getattr(self, name), 0, 1)
        require(self.instances_per_image >= 1, "--instances-per-image must be at least 1")
