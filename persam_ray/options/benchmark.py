"""The options of the jobs around Mask R-CNN: training, labeling with it, and the benchmark against PerSAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from persam_ray.options.base import check_between, require, split_ids
from persam_ray.options.train_mask_rcnn import Ids, TrainingConfig
from persam_ray.types import Guidance, Objects

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(TrainingConfig):
    """Compare Mask R-CNN trained on a few images with PerSAM and PerSAM-F, which are given the first of them.

    Example: persam-ray benchmark --images photos --category top --train-images 10 --test-images 300
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

    guidance: Guidance = "aligned"
    """Where PerSAM's attention map lies on photos that are not square: as in `persam-ray label`."""

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
