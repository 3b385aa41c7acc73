"""Rows of predictions beside rows of truth: what belongs together is judged, what does not is an error by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from persam_ray.data.annotations import from_mask
from persam_ray.data.schema import ANNOTATION, INSTANCE, MATCHES, instance_row
from persam_ray.metrics.scores import accumulate, metrics_of
from persam_ray.metrics.summary import DETECTION, TALLY, ShardSummary, merge, pack
from persam_ray.stages.judge import EvaluationError, JudgeOptions, MatchImages, judge_rows
from persam_ray.types import Segmentation

SIZE = (20, 30)
JOINED = pa.schema(
    [
        ("image_id", pa.string()), ("height", pa.int32()), ("width", pa.int32()),
        ("annotations", pa.list_(ANNOTATION)), ("error", pa.string()), ("is_image", pa.bool_()),
        ("predicted_height", pa.int32()), ("predicted_width", pa.int32()), ("status", pa.string()),
        ("instances", pa.list_(INSTANCE)), ("is_prediction", pa.bool_()),
    ]
)  # fmt: skip


def block(top: int, left: int, height: int = 5, width: int = 4) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def truth(mask: np.ndarray, category: str = "cup") -> dict[str, Any]:
    return from_mask(category, mask)


def found(mask: np.ndarray, score: float = 0.9, category: str = "cup") -> dict[str, Any]:
    return instance_row(Segmentation(category, mask, (0.0, 0.0, 1.0, 1.0), score))


def joined(image_id: str, **fields: Any) -> dict[str, Any]:
    row = {
        "image_id": image_id, "height": 20, "width": 30, "annotations": [truth(block(0, 0))], "error": None,
        "is_image": True, "predicted_height": 20, "predicted_width": 30, "status": "ok",
        "instances": [found(block(0, 0))], "is_prediction": True,
    }  # fmt: skip
    return row | fields


def matched(folder: Path, *rows: dict[str, Any], **options: Any) -> dict[str, Any]:
    stage = MatchImages(str(folder), JudgeOptions(("cup",), **options), "run", "photos")
    row: dict[str, Any]
    (row,) = (row for table in stage(pa.Table.from_pylist(list(rows), schema=JOINED)) for row in table.to_pylist())
    return row


def test_matches_are_written_and_images_without_truth_are_counted_apart(tmp_path: Path) -> None:
    row = matched(
        tmp_path,
        joined("hit"),
        joined("missed", instances=[]),
        joined("stray", annotations=[]),
        joined("unknown", annotations=None),
    )
    assert (row["judged"], row["unannotated"]) == (3, 1)
    cup = metrics_of([row["summary"]]).categories["cup"]
    assert (cup["tp"], cup["fp"], cup["fn"]) == (1, 1, 1)
    (path,) = tmp_path.iterdir()
    table = pq.read_table(path)
    assert table.schema.equals(MATCHES)
    kinds = {(match["image_id"], match["kind"]) for match in table.to_pylist()}
    assert kinds == {("hit", "tp"), ("stray", "fp"), ("missed", "fn")}


def test_a_failed_image_misses_its_objects(tmp_path: Path) -> None:
    failed = joined("a", status="failed", instances=[], predicted_height=None, predicted_width=None)
    cup = metrics_of([matched(tmp_path, failed)["summary"]]).categories["cup"]
    assert (cup["tp"], cup["fp"], cup["fn"]) == (0, 0, 1)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"is_image": None, "annotations": None}, "run: the row 'x' is not among the images photos"),
        ({"is_prediction": None, "instances": None}, "run: has no row for the image 'x' of photos"),
        ({"error": "segm is damaged"}, "photos: the ground truth of 'x' cannot be used: segm is damaged"),
        (
            {"predicted_height": 21},
            "'x' .* the annotations are for an image of 30 x 20 pixels, but the photo is 30 x 21",
        ),
        ({"annotations": [{"category": "cup", "rle": None}]}, "'x' cannot be used: an annotation lacks"),
        ({"status": "failed", "height": None}, "'x' could not be labeled, and its own row does not state its size"),
    ],
)
def test_what_does_not_belong_together_is_named(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(EvaluationError, match=says):
        matched(tmp_path, joined("fine"), joined("x", **fields))


def test_truth_that_does_not_state_its_size_takes_the_photos(tmp_path: Path) -> None:
    cup = metrics_of([matched(tmp_path, joined("a", height=None, width=None))["summary"]]).categories["cup"]
    assert cup["tp"] == 1


def test_a_doubled_row_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="run: image 'x' is in the shard twice"):
        matched(tmp_path, joined("x"), joined("x"))


def test_components_are_objects_of_their_own_on_both_sides_and_small_ones_can_be_dropped() -> None:
    two = block(0, 0) | block(10, 20)  # two objects of 20 pixels
    speck = block(15, 0, 1, 1)
    row = joined("a", annotations=[truth(two)], instances=[found(two | speck)])
    counts = {}
    for name, options in {
        "mask": JudgeOptions(("cup",)),
        "component": JudgeOptions(("cup",), objects="component"),
        "dropped": JudgeOptions(("cup",), objects="component", min_object_fraction=2 / 600),
    }.items():
        cup = metrics_of_rows([row], options)
        counts[name] = (cup["tp"], cup["fp"], cup["fn"])
    assert counts == {"mask": (1, 0, 0), "component": (2, 1, 0), "dropped": (2, 0, 0)}


def metrics_of_rows(rows: list[dict[str, Any]], options: JudgeOptions) -> dict[str, Any]:
    from persam_ray.metrics.summary import pack

    return metrics_of([pack(judge_rows(rows, options)[0])]).categories["cup"]


def test_shards_that_were_packed_have_the_metrics_of_those_that_were_not() -> None:
    generator = np.random.default_rng(0)
    shards = []
    for images in np.split(generator.permutation(200).astype(np.uint64), 4):
        detections, tallies = np.zeros(90, DETECTION), np.zeros(len(images), TALLY)
        detections["image"], detections["score"] = generator.choice(images, 90), generator.random(90)
        detections["matched"] = generator.integers(0, 2, (90, 1)) * generator.integers(0, 1024, (90, 4))
        detections["rank"] = generator.integers(0, 5, 90)
        tallies["image"], tallies["tp"], tallies["truth_px"] = images, generator.integers(0, 3, len(images)), 9
        truths_ka = np.array([[60, 20, 20, 20]])
        shards.append(ShardSummary(("cup",), 0.5, images, truths_ka, detections, tallies))
    expected = accumulate(merge(shards))
    found = metrics_of([pack(shard) for shard in shards])
    assert found == expected
    assert 0.05 < float(found.overall["ap50"] or 0) < 0.95
