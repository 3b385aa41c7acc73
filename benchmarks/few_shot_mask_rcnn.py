"""What does Mask R-CNN learn from a few photos, and in what time? On photos in DeepFashion-MultiModal's layout.

    python benchmarks/few_shot_mask_rcnn.py FOLDER CHECKPOINT [--train 10] [--test 60] [--category top]
                                            [--objects mask|component] [--seed 0] [--steps 500]

CHECKPOINT holds start weights (a classifier or a detector, in torchvision's naming); `none` starts at random. Photos
in which the category covers more than 1% of the pixels are shuffled by the seed: the first are trained on, the next are
judged. `--objects component` trains on each connected part above 0.1% of a photo as an object of its own. Prints the
seconds, and average precision and mIoU for whole masks and for connected components as objects.
"""

import argparse
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from persam_ray.annotations import category_mask
from persam_ray.checkpoints import read_checkpoint
from persam_ray.datasets import open_dataset
from persam_ray.detection import predict
from persam_ray.evaluation_merge import accumulate
from persam_ray.few_shot import (
    Example,
    FewShotSettings,
    TrainingLosses,
    make_batch,
    make_optimiser,
    prepare,
    train_step,
)
from persam_ray.images import decode_image
from persam_ray.judging import JudgeOptions, judge_rows
from persam_ray.mask_rcnn import MaskRcnn, build_mask_rcnn
from persam_ray.masks import components, drop_small_components, encode_rle
from persam_ray.types import Segmentation

PRESENT_FRACTION = 0.01
LEAST_FRACTION = 0.001
SCORE_THRESHOLD = 0.5
"""Of the predictions that mIoU and the counts take; average precision takes all."""

Row = Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("checkpoint")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--category", default="top")
    parser.add_argument("--train", type=int, default=10)
    parser.add_argument("--test", type=int, default=60)
    parser.add_argument("--objects", choices=["mask", "component"], default="mask")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=FewShotSettings.steps)
    parser.add_argument("--learning-rate", type=float, default=FewShotSettings.learning_rate)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(min(2, os.cpu_count() or 1))

    rows = shuffled(photos_with(options.folder, options.category), options.seed)
    examples = [example_of(row, options.category, options.objects) for row in rows[: options.train]]
    settings = FewShotSettings(steps=options.steps, learning_rate=options.learning_rate, seed=options.seed)
    start = None if options.checkpoint == "none" else read_checkpoint(options.checkpoint)
    model, report = build_mask_rcnn(options.backbone, [options.category], start, seed=options.seed)
    model.detector.to(options.device)
    print(report)
    training_s = train(model, examples, settings)
    judged, prediction_s = label(model, rows[options.train : options.train + options.test])
    cpu = f"{time.process_time() / (training_s + prediction_s):.2f} cores busy"
    print(f"trained {settings.steps} steps on {len(examples)} photos in {training_s:.0f} s; {cpu}")
    print(f"predicted {len(judged)} photos at {len(judged) / prediction_s:.1f} photos/s")
    for objects in ("mask", "component"):
        print(f"objects are {objects}s: {figures(judged, options.category, objects)}")


def photos_with(folder: str, category: str) -> list[Row]:
    """Return the rows of the photos in which the category covers more than PRESENT_FRACTION, by key."""
    rows = [row for shard in open_dataset(folder).shards for table in shard.read() for row in table.to_pylist()]
    annotated = [row for row in rows if row["annotations"] is not None]
    present = [
        row
        for row in annotated
        if category_mask(row["annotations"], category, (row["height"], row["width"])).mean() > PRESENT_FRACTION
    ]
    return sorted(present, key=lambda row: str(row["image_id"]))


def shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    """Return the rows in an order that follows from the seed."""
    return [rows[index] for index in np.random.default_rng(100 + seed).permutation(len(rows))]


def example_of(row: Row, category: str, objects: str) -> Example:
    """Make an example of a photo: the category's whole mask is one object, or each of its components is."""
    mask_hw = category_mask(row["annotations"], category, (row["height"], row["width"]))
    masks = [mask_hw] if objects == "mask" else components(drop_small_components(mask_hw, LEAST_FRACTION))
    labels_n, iscrowd_n = np.ones(len(masks), np.int64), np.zeros(len(masks), np.bool_)
    return Example(row["image_id"], decode_image(row["image"]), np.stack(masks), labels_n, iscrowd_n)


def train(model: MaskRcnn, examples: Sequence[Example], settings: FewShotSettings) -> float:
    """Train the model; return the seconds."""
    start_s = time.perf_counter()
    losses = TrainingLosses(model)
    prepared = prepare(examples, model.spec, settings)
    optimiser, schedule = make_optimiser(losses, settings)
    for step in range(settings.steps):
        batch = make_batch(prepared, model.spec, settings, step)
        values = train_step(losses, optimiser, schedule, batch, settings)
        if step % 50 == 0:
            print(f"step {step:4}: " + "  ".join(f"{name} {value:.3f}" for name, value in values.items()), flush=True)
    return time.perf_counter() - start_s


def label(model: MaskRcnn, rows: Iterable[Row]) -> tuple[list[Row], float]:
    """Return the rows with predicted instances, and the seconds that took."""
    start_s = time.perf_counter()
    labelled = [{**row, "instances": instances(predict(model, [decode_image(row["image"])])[0])} for row in rows]
    return labelled, time.perf_counter() - start_s


def instances(found: Sequence[Segmentation]) -> list[Row]:
    """Describe a photo's instances as the judge reads them."""
    return [{"category": one.category, "score": one.score, "rle": encode_rle(one.mask_hw)} for one in found]


def figures(rows: Sequence[Row], category: str, objects: Any) -> str:
    """Return average precision, mIoU and counts in words."""
    options = JudgeOptions((category,), SCORE_THRESHOLD, objects, LEAST_FRACTION if objects == "component" else 0.0)
    found = accumulate(judge_rows(rows, options)[0]).categories[category]
    return (
        f"AP {found['map']:.3f}  AP50 {found['ap50']:.3f}  mIoU {found['miou']:.3f}  "
        f"TP {found['tp']}  FP {found['fp']}  FN {found['fn']} (at IoU 0.5, score {SCORE_THRESHOLD})"
    )


if __name__ == "__main__":
    main()
