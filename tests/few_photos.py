"""Photos of 96 x 128 pixels with a red shape, and a detector of it that starts at random."""

from collections.abc import Sequence

import numpy as np

from persam_ray.mask_rcnn.examples import Example, prepare
from persam_ray.mask_rcnn.few_shot import TrainingLosses, make_batch, make_optimiser, train_step
from persam_ray.mask_rcnn.model import MaskRcnn, MaskRcnnSpec, build_mask_rcnn
from persam_ray.mask_rcnn.settings import FewShotSettings
from persam_ray.masks import encode_rle
from persam_ray.metrics.evaluation import evaluate_shard
from persam_ray.metrics.instances import ImagePair, PredictedInstance, TruthInstance
from persam_ray.metrics.scores import accumulate
from persam_ray.types import Checkpoint, Segmentation

FRAME_PX = (96, 128)
SPEC = MaskRcnnSpec("mobilenet_v2", ("shape",), FRAME_PX)
RED = (220, 40, 30)


def photo(image_id: str, *boxes: tuple[int, int, int, int], size_hw: tuple[int, int] = (96, 128)) -> Example:
    """Draw a photo with red rectangles, given as top, left, bottom, right, each an instance."""
    image = np.random.default_rng(len(image_id)).integers(60, 120, (*size_hw, 3), dtype=np.uint8)
    masks = np.zeros((len(boxes), *size_hw), dtype=bool)
    for mask, (top, left, bottom, right) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
        image[mask] = RED
    return Example(image_id, image, masks, np.ones(len(boxes), np.int64), np.zeros(len(boxes), bool))


def two_photos() -> list[Example]:
    return [photo("wide", (40, 40, 80, 90)), photo("tall", (20, 70, 80, 110), size_hw=(128, 120))]


def tiny_model(start: Checkpoint | None = None) -> MaskRcnn:
    return build_mask_rcnn("mobilenet_v2", ["shape"], start, frame_px=FRAME_PX)[0]


def train(model: MaskRcnn, examples: Sequence[Example], settings: FewShotSettings) -> None:
    losses = TrainingLosses(model)
    prepared = prepare(examples, model.spec, settings)
    optimiser, schedule = make_optimiser(losses, settings)
    for step in range(settings.steps):
        train_step(losses, optimiser, schedule, make_batch(prepared, model.spec, settings, step), settings)


def average_precision_50(examples: Sequence[Example], found: Sequence[Sequence[Segmentation]]) -> float:
    pairs = [
        ImagePair(
            example.image_id,
            example.image_hw3.shape[:2],
            tuple(TruthInstance("shape", encode_rle(mask)) for mask in example.masks_nhw),
            tuple(PredictedInstance("shape", encode_rle(instance.mask_hw), instance.score) for instance in instances),
        )
        for example, instances in zip(examples, found, strict=True)
    ]
    summary, _ = evaluate_shard(pairs, ["shape"], score_threshold=0.5)
    ap50 = accumulate(summary).overall["ap50"]
    assert ap50 is not None
    return ap50
