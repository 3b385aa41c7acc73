"""Judge predictions against ground truth, for rows of tables. The label job's writer and the evaluate job share this.

Workers judge a table of images and return its summary as bytes (about 100 for each image). The driver merges these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pycocotools import mask as coco_mask

from persam_ray.data.annotations import BadAnnotationError, check_truth
from persam_ray.data.schema import MATCHES
from persam_ray.data.storage import join, write_parquet
from persam_ray.errors import PersamRayError
from persam_ray.masks import rle_object
from persam_ray.metrics.evaluation import evaluate_shard
from persam_ray.metrics.instances import ImagePair, PredictedInstance, TruthInstance, drop_small, split_components
from persam_ray.metrics.matching import ImageMatches
from persam_ray.metrics.summary import ShardSummary, pack
from persam_ray.runs.parts import part_name
from persam_ray.types import Objects


class EvaluationError(PersamRayError, ValueError):
    """Predictions and ground truth do not belong together; the message names the first row at fault."""


@dataclass(frozen=True)
class JudgeOptions:
    """How to judge.

    Attributes:
        categories: Categories to judge; others are ignored.
        score_threshold: Predictions of at least this score, 0 to 1, count in TP, FP, FN and the regions; AP uses all.
        objects: `mask` takes each instance as one object, `component` each connected part of it, in predictions and
            truth alike.
        min_object_fraction: Predicted objects that cover less than this fraction of the image, 0 to 1, are dropped.
    """

    categories: tuple[str, ...]
    score_threshold: float = 0.0
    objects: Objects = "mask"
    min_object_fraction: float = 0.0


def judge_rows(rows: Iterable[Mapping[str, Any]], options: JudgeOptions) -> tuple[ShardSummary, pa.Table]:
    """Judge images that have ground truth.

    Args:
        rows: Rows with `image_id`, `height`, `width`, `instances`, and `annotations`, which must not be null. A failed
            image has no instances, so all of its objects count as missed.
        options: How to judge.

    Returns:
        The summary, and a MATCHES row for each object.
    """
    pairs = [image_pair(row, options) for row in rows]
    summary, matches = evaluate_shard(pairs, options.categories, score_threshold=options.score_threshold)
    by_id = {pair.image_id: pair for pair in pairs}
    match_rows = [row for image in matches for row in _match_rows(image, by_id[image.image_id])]
    return summary, pa.Table.from_pylist(match_rows, schema=MATCHES)


def image_pair(row: Mapping[str, Any], options: JudgeOptions) -> ImagePair:
    """Return the objects of an image that are compared; matches refer to them by their positions."""
    size_hw = (row["height"], row["width"])
    truths = [
        TruthInstance(item["category"], item["rle"], item["area"], bool(item["iscrowd"]))
        for item in row["annotations"]
        if item["category"] in options.categories
    ]
    found = [
        PredictedInstance(item["category"], item["rle"], item["score"])
        for item in row["instances"] or ()
        if item["category"] in options.categories
    ]
    if options.objects == "component":
        truths, found = split_components(truths, size_hw), split_components(found, size_hw)
    found = drop_small(found, size_hw, options.min_object_fraction)
    return ImagePair(row["image_id"], size_hw, tuple(truths), tuple(found))


JUDGED = pa.schema([("judged", pa.int64()), ("unannotated", pa.int64()), ("summary", pa.binary())])


@dataclass(frozen=True)
class MatchImages:
    """Judges a table of joined rows, and writes its matches as one Parquet file named after its keys.

    Attributes:
        folder: URI to write the matches below.
        options: How to judge.
        predictions: URI of the predictions, for messages.
        images: URI of the ground truth, for messages.
    """

    folder: str
    options: JudgeOptions
    predictions: str
    images: str

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """Turn joined rows (truth beside prediction, by key) into one JUDGED row; no row for an empty table.

        Raises:
            EvaluationError: An image has only truth or only a prediction, occurs twice, or its sizes differ.
        """
        rows = [self._checked(row) for row in table.to_pylist()]
        if not rows:
            return
        annotated = [row for row in rows if row["annotations"] is not None]
        try:
            summary, matches = judge_rows(annotated, self.options)
        except ValueError as error:
            raise EvaluationError(f"{self.predictions}: {error}") from error
        write_parquet(join(self.folder, part_name(table)), matches)
        judged = {"judged": len(annotated), "unannotated": len(rows) - len(annotated), "summary": pack(summary)}
        yield pa.Table.from_pylist([judged], schema=JUDGED)

    def _checked(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row with its photo's size filled in, because the truth need not state it."""
        name = row["image_id"]
        if not row["is_image"]:
            raise EvaluationError(f"{self.predictions}: the row {name!r} is not among the images {self.images}")
        if not row["is_prediction"]:
            raise EvaluationError(f"{self.predictions}: has no row for the image {name!r} of {self.images}")
        if row["error"] is not None:
            raise EvaluationError(f"{self.images}: the ground truth of {name!r} cannot be used: {row['error']}")
        if row["annotations"] is None:
            return row
        stated_hw = (row["height"], row["width"])
        size_hw = (row["predicted_height"], row["predicted_width"]) if row["status"] == "ok" else stated_hw
        if None in size_hw:
            raise EvaluationError(
                f"{self.images}: {name!r} could not be labeled, and its own row does not state its size"
            )
        try:
            check_truth(row, size_hw)
        except BadAnnotationError as error:
            raise EvaluationError(f"{self.images}: the ground truth of {name!r} cannot be used: {error}") from error
        return row | {"height": size_hw[0], "width": size_hw[1]}


def _match_rows(image: ImageMatches, pair: ImagePair) -> Iterator[dict[str, Any]]:
    common = {"image_id": image.image_id, "category": image.category, "prediction": None, "truth": None, "score": None}
    found, truths = ([one.rle for one in objects] for objects in (pair.predictions, pair.truths))
    for hit in image.true_positives:
        area = _area_px(truths[hit.truth], pair)
        yield common | vars(hit) | {"kind": "tp", "area": area}
    for stray in image.false_positives:
        area = _area_px(found[stray.prediction], pair)
        row = {"kind": "fp", "prediction": stray.prediction, "iou": stray.best_iou, "score": stray.score, "area": area}
        yield common | row
    for miss in image.false_negatives:
        area = _area_px(truths[miss.truth], pair)
        yield common | {"kind": "fn", "truth": miss.truth, "iou": miss.best_iou, "area": area}


def _area_px(rle: str, pair: ImagePair) -> int:
    return int(coco_mask.area(rle_object(rle, pair.size_hw)))
