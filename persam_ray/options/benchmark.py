"""The options of `persam-ray benchmark`."""

from __future__ import annotations

from dataclasses import dataclass

from persam_ray.options.base import check_between, require, split_ids
from persam_ray.options.train_mask_rcnn import Ids, TrainingConfig
from persam_ray.types import Guidance, Objects


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(TrainingConfig):
    """Compare Mask R-CNN, trained on a few images, with PerSAM and PerSAM-F, which get one of them as reference.

    Example: persam-ray benchmark --images photos --category top --train-images 10 --test-images 300
    --output comparison
    """

    demo: bool = False
    """Try the job without photos or downloads.
    It draws 70 photos into demo/scenes, finds the tops in them with the bundled SAM, and writes to demo/benchmark.
    Most other options can be combined with it."""

    category: str
    """Category to find."""

    train_images: int | None = None
    """Number of images to train on.
    They are drawn from those in which the category covers at least 1% of the image.
    Default: 10, or the images of --train-ids."""

    test_images: int | None = None
    """Number of images to judge.
    They are drawn from all other annotated images, with and without the category.
    Default: 300, or the images of --test-ids."""

    test_ids: Ids = ()
    """Judge these images instead of drawing some."""

    objects: Objects = "component"
    """What counts as one object, in predictions, truth and training: each connected part of a mask (component),
    or the whole mask (mask). Training leaves out parts below 0.1% of the image."""

    min_area_fraction: float = 0.001
    """Drop connected parts of a predicted mask that are smaller than this fraction of the image, 0 to 1.
    Only the rows "small objects removed" do so."""

    detector_score_threshold: float = 0.5
    """Lowest score, 0 to 1, of the Mask R-CNN instances that count for TP, FP, FN and mIoU."""

    sam_score_threshold: float = 0.0
    """Lowest score, 0 to 1, of the PerSAM and PerSAM-F instances that count for TP, FP, FN and mIoU.
    They give an image at most one mask, with a score that is not a probability."""

    sam: str = "vit_b"
    """Segment Anything weights: vit_b, vit_l, vit_h or mobile_sam (fetched once and checked by their digest),
    demo (small and bundled, for drawn photos), or the path or URL of a checkpoint (.pth, .safetensors)."""

    guidance: Guidance = "aligned"
    """How PerSAM's attention map lies on photos that are not square: aligned with the image (aligned),
    or squashed as in the official code, to compare with it (official)."""

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
