"""Do masks change with the precision? PerSAM and PerSAM-F on annotated photos in float32, `auto` and bfloat16.

    python benchmarks/precision.py CHECKPOINT DEEPFASHION_FOLDER [--category top] [--photos 240]

The first photo that holds the category is the reference. Targets are made in float32, as in the jobs for PerSAM-F.
Prints the mean IoU of the masks with the masks in float32, the mIoU (summed intersection over summed union) of each
against the truth on photos in which the category covers more than 0.5% of the pixels, and a JSON line.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from persam_ray.compute.precision import Precision
from persam_ray.data.annotations import category_mask
from persam_ray.data.checkpoints import read_checkpoint
from persam_ray.data.deepfashion import from_index_map
from persam_ray.data.weights import locate
from persam_ray.images import decode_image, resize_longest_side
from persam_ray.methods import persam, persam_f
from persam_ray.methods.persam import PersamTarget
from persam_ray.methods.persam_f import PersamFTarget
from persam_ray.methods.references import encode_references
from persam_ray.sam.model import Sam
from persam_ray.types import BoolArray, ByteArray, Reference

PRESENT_FRACTION = 0.005
PRECISIONS: tuple[Precision, ...] = ("float32", "auto", "bfloat16")
METHODS = ("persam", "persam_f")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("folder")
    parser.add_argument("--category", default="top")
    parser.add_argument("--photos", type=int, default=240)
    options = parser.parse_args()
    photos = list(islice(annotated(Path(options.folder), options.category), options.photos))
    reference = next(Reference(options.category, image, mask) for image, mask in photos if mask.any())
    checkpoint = read_checkpoint(locate(options.checkpoint))
    exact_sam = Sam(checkpoint, precision="float32")
    encoded = encode_references(exact_sam, [reference])
    targets = persam.make_target(exact_sam, encoded), persam_f.make_target_f(exact_sam, encoded)
    masks = {precision: labels(Sam(checkpoint, precision=precision), photos, *targets) for precision in PRECISIONS}
    present = [index for index, (_, truth) in enumerate(photos) if truth.mean() > PRESENT_FRACTION]
    results: dict[str, float] = {}
    for method in METHODS:
        for precision in PRECISIONS:
            found = masks[precision][method]
            agreed = float(np.mean(list(map(iou, found, masks["float32"][method]))))
            results[f"{method}, {precision}, mean IoU with float32"] = agreed
            both = sum((found[index] & photos[index][1]).sum() for index in present)
            either = sum((found[index] | photos[index][1]).sum() for index in present)
            results[f"{method}, {precision}, mIoU"] = float(both / either)
    for name, figure in results.items():
        print(f"{name:44} {figure:.4f}")
    print(json.dumps({"category": options.category, "photos": len(photos), "judged": len(present), **results}))


def annotated(folder: Path, category: str) -> Iterator[tuple[ByteArray, BoolArray]]:
    """Yield photos and masks of a category."""
    for path in sorted((folder / "images").iterdir()):
        rows, size_hw = from_index_map((folder / "segm" / f"{path.stem}_segm.png").read_bytes())
        yield decode_image(path.read_bytes()), category_mask(rows, category, size_hw)


def labels(
    sam: Sam, photos: list[tuple[ByteArray, BoolArray]], target: PersamTarget, target_f: PersamFTarget
) -> dict[str, list[BoolArray]]:
    """Return each method's mask of every photo, empty where nothing was found."""
    found: dict[str, list[BoolArray]] = {method: [] for method in METHODS}
    for image, truth in photos:
        features, frames = sam.encode([resize_longest_side(image, sam.image_size_px)]), [sam.frame(truth.shape)]
        raws = (
            persam.segment(sam, features, frames, [target]).wait()[0][0],
            persam_f.segment_f(sam, features, frames, [target_f]).wait()[0][0],
        )
        for method, raw in zip(METHODS, raws, strict=True):
            found[method].append(np.zeros_like(truth) if raw is None else raw.mask_hw.numpy())
    return found


def iou(first: BoolArray, second: BoolArray) -> float:
    """Return the IoU of two masks, 1 where both are empty."""
    either = (first | second).sum()
    return float((first & second).sum() / either) if either else 1.0


if __name__ == "__main__":
    main()
