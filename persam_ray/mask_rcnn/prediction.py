"""Finding instances in photos by Mask R-CNN.

A photo (h, w, 3) uint8 is resized to the model's frame (384 x 576 on a CPU, 800 x 1333 on a GPU) and passes the model
alone: beside a larger neighbour its padding, and with it its features, would change. An instance comes back as 28 x 28
probabilities in a box, and is pasted into the photo's own frame.

Suffixes: h w rows and columns, n instances, m rows and columns of a mask within its box.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks
from torchvision.models.detection.transform import resize_boxes

from persam_ray.images import resize
from persam_ray.mask_rcnn.model import MaskRcnn
from persam_ray.masks import tight_box
from persam_ray.types import BoolArray, ByteArray, DetectionLimits, Segmentation

DEFAULT_LIMITS = DetectionLimits()


def predict(
    model: MaskRcnn,
    images: Sequence[ByteArray],
    limits: DetectionLimits = DEFAULT_LIMITS,
) -> list[list[Segmentation]]:
    """Find instances. A photo's result does not depend on the photos beside it.

    Args:
        model: On any device; it is left in evaluation mode.
        images: (h, w, 3) uint8 RGB, of any sizes.
        limits: Which instances are kept.

    Returns:
        For each photo its instances by falling score; those with no pixel above probability 0.5 are left out.
    """
    sizes = [(image_hw3.shape[0], image_hw3.shape[1]) for image_hw3 in images]
    resized = [resize(image, model.spec.frame_hw(size_hw)) for image, size_hw in zip(images, sizes, strict=True)]
    return [predict_resized(model, *pair, limits) for pair in zip(resized, sizes, strict=True)]


@torch.inference_mode()
def predict_resized(
    model: MaskRcnn, resized_hw3: ByteArray, photo_hw: tuple[int, int], limits: DetectionLimits
) -> list[Segmentation]:
    """Find instances in one photo that has the size of the model's frame already; masks are of the photo's own size."""
    detector = model.detector.eval()
    detector.roi_heads.score_thresh, detector.roi_heads.detections_per_img = limits.score, limits.per_image
    device = next(detector.parameters()).device
    pixels_3hw = torch.tensor(resized_hw3, device=device).permute(2, 0, 1) / 255
    images, _ = detector.transform([pixels_3hw])
    features = detector.backbone(images.tensors)
    proposals, _ = detector.rpn(images, features)
    [found], _ = detector.roi_heads(features, proposals, images.image_sizes)
    boxes_n4 = resize_boxes(found["boxes"], (resized_hw3.shape[0], resized_hw3.shape[1]), photo_hw)
    masks = paste_masks(found["masks"].cpu(), boxes_n4.cpu(), photo_hw)
    return [
        Segmentation(model.spec.categories[label - 1], mask_hw, tight_box(mask_hw), score)
        for mask_hw, label, score in zip(masks, found["labels"].tolist(), found["scores"].tolist(), strict=True)
        if mask_hw.any()
    ]


def paste_masks(masks_n1mm: Tensor, boxes_n4: Tensor, photo_hw: tuple[int, int]) -> list[BoolArray]:
    """Enlarge each mask to its box and threshold it at 0.5: the pixels of torchvision's `paste_masks_in_image`.

    That makes float32 images of all masks at once: for 100 masks of a 12-megapixel photo 4.8 GB, and as much again to
    stack them. Here one box at a time is enlarged, and of a mask's image only the pages under its box are touched.
    """
    padded_n1mm, scale = expand_masks(masks_n1mm, padding=1)
    boxes = expand_boxes(boxes_n4, scale).to(torch.int64).tolist()
    pasted = []
    for mask_1mm, (left, top, right, bottom) in zip(padded_n1mm, boxes, strict=True):
        size_hw = (max(bottom - top + 1, 1), max(right - left + 1, 1))
        on_hw = F.interpolate(mask_1mm[None], size=size_hw, mode="bilinear", align_corners=False)[0, 0] > 0.5
        mask_hw = np.zeros(photo_hw, dtype=np.bool_)
        window = mask_hw[max(top, 0) : bottom + 1, max(left, 0) : right + 1]
        window[:] = on_hw.numpy()[max(-top, 0) :, max(-left, 0) :][: window.shape[0], : window.shape[1]]
        pasted.append(mask_hw)
    return pasted
