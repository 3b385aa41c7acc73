"""Intersection and union of predicted and true masks, summed over images: mean IoU as the PerSAM paper defines it.

Everything is done on run-length strings; no mask is decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa
from pycocotools import mask as coco_mask

from persam_ray.annotations import category_rle

TALLY = pa.struct(
    [
        ("category", pa.string()),
        ("images", pa.int64()),
        ("images_with_category", pa.int64()),
        ("intersection_px", pa.int64()),
        ("union_px", pa.int64()),
        ("stray_px", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Tally:
    """Sums over the annotated images of one category.

    Attributes:
        category: The category.
        images: Annotated images.
        images_with_category: Those whose ground truth holds it.
        intersection_px: Of prediction and truth, over the images with the category.
        union_px: The same.
        stray_px: Predicted pixels in annotated images without the category.
    """

    category: str
    images: int = 0
    images_with_category: int = 0
    intersection_px: int = 0
    union_px: int = 0
    stray_px: int = 0

    def __add__(self, other: Tally) -> Tally:
        sums = (getattr(self, field.name) + getattr(other, field.name) for field in fields(self)[1:])
        return Tally(self.category, *sums)


def tally_image(row: Mapping[str, Any], categories: Sequence[str]) -> list[Tally]:
    """Compare the instances of one LABELED row with its annotations; nothing where it has none, or failed."""
    if row["annotations"] is None or row["status"] != "ok":
        return []
    size_hw = (row["height"], row["width"])
    tallies = []
    for category in categories:
        truth = category_rle(row["annotations"], category, size_hw)
        found = category_rle(row["instances"], category, size_hw)
        found_px = 0 if found is None else int(coco_mask.area(found))
        if truth is None:
            tallies.append(Tally(category, images=1, stray_px=found_px))
            continue
        both_px = 0 if found is None else int(coco_mask.area(coco_mask.merge([truth, found], intersect=True)))
        union_px = int(coco_mask.area(truth)) + found_px - both_px
        tallies.append(Tally(category, 1, 1, both_px, union_px))
    return tallies


def total(groups: Iterable[Sequence[Tally]]) -> list[Tally]:
    """Add up tallies by category."""
    sums: dict[str, Tally] = {}
    for tallies in groups:
        for tally in tallies:
            sums[tally.category] = sums.get(tally.category, Tally(tally.category)) + tally
    return list(sums.values())


def mean_iou_metrics(tallies: Iterable[Tally]) -> dict[str, Any]:
    """Return the content of metrics.json.

    `miou` of a category is summed intersection over summed union in the images that hold it, as in the paper, where
    every image does; `miou_all_images` also counts what was predicted where the category is absent. Overall: the mean
    over categories. Null where no image decides.
    """
    categories = {
        tally.category: {
            "miou": _ratio(tally.intersection_px, tally.union_px),
            "miou_all_images": _ratio(tally.intersection_px, tally.union_px + tally.stray_px),
            "images": tally.images,
            "images_with_category": tally.images_with_category,
        }
        for tally in sorted(tallies, key=lambda tally: tally.category)
    }
    overall = {name: _mean([values[name] for values in categories.values()]) for name in ("miou", "miou_all_images")}
    return {"overall": overall, "categories": categories}


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
