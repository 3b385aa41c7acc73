"""The masks and scores that PerSAM and PerSAM-F give for each image and target, on their way from the device."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, stack

from persam_ray.compute.transfers import Download
from persam_ray.masks import tight_box
from persam_ray.types import Segmentation, Target


@dataclass(frozen=True)
class RawMask:
    """The method's answer for one image and target, before filtering and encoding.

    Attributes:
        mask_hw: bool over the original image, on the host; at least one pixel True.
        predicted_iou: SAM's prediction for the final mask.
        similarity: Highest cosine similarity in the image.
    """

    mask_hw: Tensor
    predicted_iou: float
    similarity: float


class PendingMasks:
    """The answers for a batch of images and some targets, which a GPU may still be working on.

    Args:
        masks: The mask of each prompt (those of the first image, of the second, ...), (H, W) bool over the image's own
            pixels; without a True pixel where a step found nothing.
        predicted_iou_n: SAM's predictions for them.
        similarity_n: Highest cosine similarity in each prompt's image.
        targets: Prompts of an image.
    """

    def __init__(self, masks: Sequence[Tensor], predicted_iou_n: Tensor, similarity_n: Tensor, targets: int) -> None:
        self._download = Download([stack([predicted_iou_n, similarity_n]), *masks])
        self._targets = targets

    def wait(self) -> list[list[RawMask | None]]:
        """Return for each image and each target its mask, or None where a step found nothing. To be called once."""
        scores_2n, *masks = self._download.wait()
        answers = zip(masks, *scores_2n.tolist(), strict=True)
        found = [RawMask(mask_hw, iou, peak) if mask_hw.any() else None for mask_hw, iou, peak in answers]
        return [found[start : start + self._targets] for start in range(0, len(found), self._targets)]


def to_instance(raw: RawMask, category: str) -> Segmentation:
    """Give a mask its score.

    The score is similarity * sqrt(predicted IoU), each clipped to [0, 1]: the first says whether the category is there
    at all, the second whether the mask is a good one. Neither ranks well alone (benchmarks/method_quality.py).
    """
    mask_hw = raw.mask_hw.numpy()
    score = max(0.0, min(1.0, raw.similarity)) * max(0.0, min(1.0, raw.predicted_iou)) ** 0.5
    return Segmentation(category, mask_hw, tight_box(mask_hw), score, raw.similarity, raw.predicted_iou)


class PendingInstances:
    """The instances of a batch of photos, which a GPU may still be working on.

    Args:
        masks: For each photo and each target.
        targets: Whose categories the masks show.
    """

    def __init__(self, masks: PendingMasks, targets: Sequence[Target]) -> None:
        self._masks = masks
        self._categories = [target.category for target in targets]

    def wait(self) -> list[list[Segmentation]]:
        """Return each photo's instances, in the order of the targets. To be called once."""
        named = [zip(raws, self._categories, strict=True) for raws in self._masks.wait()]
        return [[to_instance(raw, category) for raw, category in own if raw is not None] for own in named]
