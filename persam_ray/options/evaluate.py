"""The options of `persam-ray evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from persam_ray.options.base import JobConfig, Repeated, check_between, require
from persam_ray.types import Objects


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(JobConfig):
    """Judge predictions against annotated images: the 12 COCO numbers, TP, FP, FN, F1, mean IoU, boundary IoU.

    Example: persam-ray evaluate --predictions s3://bucket/labels --images s3://bucket/shards --output s3://bucket/eval
    """

    predictions: str
    """Run directory of a labeling job, or its predictions/ folder; a path or a URL."""

    category: Annotated[Repeated, tyro.conf.arg(metavar="NAME")] = ()
    """Category to judge. Repeat it for more. Default: the categories of the run's manifest."""

    score_threshold: float = 0.0
    """Lowest score, 0 to 1, of the predictions that count for TP, FP, FN, mIoU and boundary IoU. AP uses all scores."""

    objects: Objects = "mask"
    """What counts as one object, in predictions and truth: a whole mask (mask), or each connected part of it
    (component)."""

    min_object_fraction: float = 0.0
    """Leave out whole predicted objects that are smaller than this fraction of the image, 0 to 1. 0 keeps all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.predictions != "", "--predictions must not be empty")
        check_between("--score-threshold", self.score_threshold, 0, 1)
        check_between("--min-object-fraction", self.min_object_fraction, 0, 1)
        require(len(set(self.category)) == len(self.category), "--category names one category twice")
