"""Random and drawn image pairs, and pycocotools run on all of them at once."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from persam_ray.keys import image_key
from persam_ray.masks import decode_rle, encode_rle
from persam_ray.metrics.evaluation import evaluate_shard
from persam_ray.metrics.instances import ImagePair, PredictedInstance, TruthInstance
from persam_ray.metrics.summary import ShardSummary, merge
from persam_ray.types import BoolArray

CATEGORIES = ("top", "bag", "hat", "never")
TWELVE = (
    "map", "ap50", "ap75", "ap_small", "ap_medium", "ap_large",
    "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip
SIZE_HW = (130, 170)


def rectangle(y: int, x: int, height: int, width: int, size_hw: tuple[int, int] = SIZE_HW) -> BoolArray:
    mask_hw = np.zeros(size_hw, dtype=np.bool_)
    mask_hw[y : y + height, x : x + width] = True
    return mask_hw


def random_rle(rng: np.random.Generator) -> str:
    kind = rng.random()
    if kind < 0.1:  # areas where one range ends and the next begins, and none at all
        side = int(rng.choice([0, 32, 96]))
        return encode_rle(rectangle(int(rng.integers(0, 30)), int(rng.integers(0, 70)), side, side))
    height, width = rng.integers(3, 128, 2) if kind < 0.5 else rng.integers(3, 50, 2)
    return encode_rle(rectangle(int(rng.integers(0, 130 - 2)), int(rng.integers(0, 170 - 2)), int(height), int(width)))


def shifted(rng: np.random.Generator, rle: str) -> str:
    moved_hw = np.roll(decode_rle(rle, SIZE_HW), rng.integers(-4, 5, 2), axis=(0, 1))
    return encode_rle(moved_hw)


def random_pair(rng: np.random.Generator, index: int) -> ImagePair:
    """Truth with crowds and odd areas; predictions near it and elsewhere, many in some images; scores that tie."""
    truths = [
        TruthInstance(
            str(rng.choice(CATEGORIES[:3])),
            random_rle(rng),
            None if rng.random() < 0.5 else float(rng.integers(0, 15_000)),
            bool(rng.random() < 0.2),
        )
        for _ in range(rng.integers(0, 6))
    ]
    crowded = index % 17 == 3
    near = [truth for truth in truths for _ in range(rng.integers(0, 3))]
    predictions = [
        PredictedInstance(truth.category, shifted(rng, truth.rle), float(rng.integers(0, 8) / 7)) for truth in near
    ]
    predictions += [
        PredictedInstance("top" if crowded else str(rng.choice(CATEGORIES[:3])), random_rle(rng), float(rng.random()))
        for _ in range(270 if crowded else rng.integers(0, 4))
    ]
    if index % 5 == 1:
        truths = []
    if index % 5 == 2:
        predictions = []
    order = rng.permutation(len(predictions))
    return ImagePair(f"photo {index}.jpg", SIZE_HW, tuple(truths), tuple(predictions[place] for place in order))


def random_pairs(seed: int, images: int = 60) -> list[ImagePair]:
    rng = np.random.default_rng(seed)
    return [random_pair(rng, index) for index in range(images)]


def run_cocoeval(pairs: Sequence[ImagePair], categories: Sequence[str], max_detections: int = 100) -> COCOeval:
    """Run pycocotools on everything at once, with image ids in the order of the images' hashes."""
    category_ids = {name: number for number, name in enumerate(categories, 1)}
    images, truths, predictions = list[Any](), list[Any](), list[Any]()
    for number, pair in enumerate(sorted(pairs, key=lambda pair: image_key(pair.image_id)), 1):
        height, width = pair.size_hw
        images.append({"id": number, "height": height, "width": width, "file_name": pair.image_id})
        items: list[TruthInstance | PredictedInstance] = [*pair.truths, *pair.predictions]
        for item in items:
            segmentation = {"size": [height, width], "counts": item.rle}
            annotation = {"image_id": number, "category_id": category_ids[item.category], "segmentation": segmentation}
            if isinstance(item, PredictedInstance):
                predictions.append({**annotation, "score": item.score})
            else:
                area = float(coco_mask.area(segmentation)) if item.area is None else item.area
                crowd = int(item.iscrowd)
                truths.append({**annotation, "id": len(truths) + 1, "area": area, "iscrowd": crowd})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": images,
            "annotations": truths,
            "categories": [{"id": number, "name": name} for name, number in category_ids.items()],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(predictions), "segm")
        evaluation.params.maxDets = [1, 10, max_detections]
        evaluation.evaluate()
    return evaluation


def twelve_numbers(evaluation: COCOeval) -> list[float | None]:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
        evaluation.summarize()
    return [None if value == -1 else float(value) for value in evaluation.stats]


def in_shards(pairs: Sequence[ImagePair], shards: int, score_threshold: float = 0.5) -> ShardSummary:
    parts = [
        evaluate_shard(pairs[start::shards], CATEGORIES, score_threshold=score_threshold)[0] for start in range(shards)
    ]
    return merge(reversed(parts))


def assert_close(got: Sequence[float | None], expected: Sequence[float | None]) -> None:
    assert [value is None for value in got] == [value is None for value in expected]
    np.testing.assert_allclose(
        [value for value in got if value is not None], [value for value in expected if value is not None], atol=1e-9
    )


def region_pair(image_id: str, truth: BoolArray | None, found: BoolArray | None, score: float = 0.9) -> ImagePair:
    truths = () if truth is None else (TruthInstance("top", encode_rle(truth)),)
    predictions = () if found is None else (PredictedInstance("top", encode_rle(found), score),)
    return ImagePair(image_id, SIZE_HW, truths, predictions)
