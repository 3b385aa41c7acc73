"""Which guidance, and which score, is better? PerSAM and PerSAM-F on photos in DeepFashion-MultiModal's layout.

    python benchmarks/method_quality.py FOLDER CHECKPOINT top=IMAGE_ID pants=IMAGE_ID ... [--precision float32]

The photo named for a category is its reference. Prints, for both kinds of guidance and both methods, the mIoU over the
other photos in which the category covers more than 0.5% of the pixels. Prints also, for each rule to score an instance,
the average precision at IoU 0.5 with all photos ranked by that score.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from persam_ray.cluster.references import load_reference
from persam_ray.data.annotations import category_mask
from persam_ray.data.checkpoints import read_checkpoint
from persam_ray.data.dataset import Dataset
from persam_ray.data.listing import open_dataset
from persam_ray.images import decode_image, resize_longest_side
from persam_ray.methods import persam, persam_f
from persam_ray.methods.answers import RawMask
from persam_ray.methods.persam import PersamTarget
from persam_ray.methods.persam_f import PersamFTarget
from persam_ray.methods.references import encode_references
from persam_ray.sam.model import Sam
from persam_ray.types import BoolArray, Frame

PRESENT_FRACTION = 0.005

RULES: dict[str, Callable[[float, float], float]] = {
    "similarity": lambda similarity, _: similarity,
    "predicted_iou": lambda _, iou: iou,
    "similarity * predicted_iou": lambda similarity, iou: similarity * max(iou, 0),
    "similarity * sqrt(predicted_iou)": lambda similarity, iou: similarity * max(iou, 0) ** 0.5,
}


@dataclass(frozen=True)
class Judged:
    """One mask compared with the truth."""

    present: bool
    intersection: int
    union: int
    similarity: float
    predicted_iou: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("checkpoint")
    parser.add_argument("references", nargs="+", metavar="CATEGORY=IMAGE_ID")
    parser.add_argument("--precision", default="float32", choices=["auto", "float32", "bfloat16"])
    options = parser.parse_args()
    references = dict(text.split("=", 1) for text in options.references)
    sam = Sam(read_checkpoint(options.checkpoint), precision=options.precision)
    judged = judge_all(sam, open_dataset(options.folder), references)
    print(f"{'category':10} {'method':18} {'photos':>6} {'mIoU':>6}   AP50 ranked by: {', '.join(RULES)}")
    for (category, method), results in judged.items():
        present = [result for result in results if result.present]
        miou = sum(result.intersection for result in present) / sum(result.union for result in present)
        precisions = "  ".join(f"{average_precision(results, rule):.3f}" for rule in RULES.values())
        print(f"{category:10} {method:18} {len(present):6} {miou:6.3f}   {precisions}")


def judge_all(sam: Sam, dataset: Dataset, references: Mapping[str, str]) -> dict[tuple[str, str], list[Judged]]:
    """Label every annotated photo by every method; the reference itself is not judged."""
    targets = {}
    for category, image_id in references.items():
        reference = load_reference(dataset, image_id, category)
        encoded = encode_references(sam, [reference])
        targets[category] = persam.make_target(sam, encoded), persam_f.make_target_f(sam, encoded)
    judged: dict[tuple[str, str], list[Judged]] = defaultdict(list)
    for row in (row for shard in dataset.shards for table in shard.read() for row in table.to_pylist()):
        if row["annotations"] is None:
            continue
        photo = decode_image(row["image"])
        frames = [sam.frame(photo.shape[:2])]
        features = sam.encode([resize_longest_side(photo, sam.image_size_px)])
        for category, (target, target_f) in targets.items():
            if row["image_id"] == references[category]:
                continue
            truth = category_mask(row["annotations"], category, photo.shape[:2])
            for method, raw in methods(sam, features, frames, target, target_f):
                judged[category, method].append(judge(raw, truth))
    return judged


def methods(
    sam: Sam, features: torch.Tensor, frames: Sequence[Frame], target: PersamTarget, target_f: PersamFTarget
) -> Iterator[tuple[str, RawMask | None]]:
    """Yield each method's name and its mask for one photo."""
    yield "persam, official", persam.segment(sam, features, frames, [target], "official").wait()[0][0]
    yield "persam, aligned", persam.segment(sam, features, frames, [target], "aligned").wait()[0][0]
    yield "persam_f", persam_f.segment_f(sam, features, frames, [target_f]).wait()[0][0]


def judge(raw: RawMask | None, truth: BoolArray) -> Judged:
    """Compare a mask with the truth."""
    found = np.zeros_like(truth) if raw is None else raw.mask_hw.numpy()
    return Judged(
        present=bool(truth.mean() > PRESENT_FRACTION),
        intersection=int((found & truth).sum()),
        union=int((found | truth).sum()),
        similarity=raw.similarity if raw else 0.0,
        predicted_iou=raw.predicted_iou if raw else 0.0,
    )


def average_precision(results: Sequence[Judged], rule: Callable[[float, float], float]) -> float:
    """Return the mean, over photos with the category, of the precision at the rank of each found one (IoU >= 0.5)."""
    ranked = sorted(results, key=lambda result: -rule(result.similarity, result.predicted_iou))
    hits = np.array([result.present and result.intersection >= 0.5 * result.union for result in ranked])
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / max(1, sum(result.present for result in results)))


if __name__ == "__main__":
    main()
