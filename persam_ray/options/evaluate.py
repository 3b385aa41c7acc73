"""The options of `persam-ray evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from persam_ray.options.base import JobConfig, Repeated, check_between, require


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(JobConfig):
    """Judge predictions against annotated images: the 12 COCO numbers, TP, FP, FN, F1, mean IoU, boundary IoU.

    Example: persam-ray evaluate --predictions s3://bucket/labels --images s3://bucket/shards --output s3://bucket/eval
    """

    predictions: str
    """Run directory of any labeling job, or its predictions/ folder."""

    category: Annotated[Repeated, tyro.conf.arg(metavar="NAME")] = ()
    """Category to judge; repeat for more. By default those of the run's manifest."""

    score_threshold: float = 0.0
    """Predictions of at least this score, 0 to 1, count for TP, FP, FN, mIoU and boundary IoU; AP uses all of them."""

    objects: Literal["mask", "component"] = "mask"
    """What an object is, in predictions and truth alike: a whole mask, or each connected part of it."""

    min_object_fraction: float = 0.0
    """Drop predicted objects smaller than this fraction of the image, 0 to 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.predictions != "", "--predictions must not be empty")
        check_between("--score-threshold", self.score_threshold, 0, 1)
        check_between("--min-object-fraction", self.min_object_fraction, 0, 1)
        require(len(set(self.category)) == len(self.category), "--category names one category twice")
