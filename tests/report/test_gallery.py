"""Which pictures the report takes, and that their outlines lie where the masks are."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from persam_ray.data.listing import open_dataset
from persam_ray.data.schema import MATCHES, PREDICTIONS
from persam_ray.data.storage import write_parquet
from persam_ray.images import BadImageError
from persam_ray.masks import encode_rle
from persam_ray.report.gallery import (
    OUTLINE_POINTS,
    THUMBNAIL_BYTES,
    THUMBNAIL_SIDE_PX,
    Thumbnail,
    make_thumbnail,
    outline,
    outline_of,
    predictions_of,
    read_photos,
    sample_run,
    worst_matches,
)
from tests.conftest import disc, scene
from tests.encoded_images import encoded

# --- choosing --------------------------------------------------------------------------------------------------------


def match(
    image_id: str, kind: str, iou: float, score: float | None, area: int, category: str = "top"
) -> dict[str, Any]:
    places = {"prediction": None if kind == "fn" else 0, "truth": None if kind == "fp" else 0}
    return {
        "image_id": image_id,
        "category": category,
        "kind": kind,
        "iou": iou,
        "score": score,
        "area": area,
        **places,
    }


def save_matches(run: Path, *parts: list[dict[str, Any]]) -> str:
    for index, rows in enumerate(parts):
        write_parquet(str(run / "matches" / f"part-{index}.parquet"), pa.Table.from_pylist(rows, schema=MATCHES))
    return str(run)


def test_the_worst_of_each_kind_come_first_whatever_the_files(tmp_path: Path) -> None:
    rows = [
        match("a", "tp", 0.9, 0.5, 10),
        match("b", "tp", 0.5, 0.9, 10),
        match("c", "tp", 0.7, 0.1, 10),
        match("a", "fp", 0.1, 0.9, 10),
        match("b", "fp", 0.0, 0.9, 50),
        match("c", "fp", 0.4, 0.2, 99),
        match("a", "fn", 0.0, None, 10),
        match("b", "fn", 0.4, None, 90),
        match("c", "fn", 0.1, None, 90),
        match("z", "fn", 0.0, None, 999, "bag"),
    ]
    expected = {"tp": ["b", "c"], "fp": ["b", "a"], "fn": ["c", "b"]}
    for name, parts in {"one": [rows], "two": [rows[5:], rows[:5]]}.items():
        worst = worst_matches(save_matches(tmp_path / name, *parts), "top", 2)
        assert {kind: [row["image_id"] for row in found] for kind, found in worst.items()} == expected


def test_an_image_is_shown_once_by_its_worst_match(tmp_path: Path) -> None:
    rows = [match("a", "fn", 0.0, None, area) for area in (5, 70, 20)] + [match("b", "fn", 0.0, None, 50)]
    found = worst_matches(save_matches(tmp_path, rows), "top", 5)["fn"]
    assert [(row["image_id"], row["area"]) for row in found] == [("a", 70), ("b", 50)]


def prediction(image_id: str, *scores: float, error: str | None = None) -> dict[str, Any]:
    mask = disc(20, 30)
    instances = [
        {"category": "top", "score": score, "box_xyxy": [0, 0, 1, 1], "area": 1, "rle": encode_rle(mask)}
        for score in scores
    ]
    status = "failed" if error else "ok"
    return {"image_id": image_id, "height": 20, "width": 30, "status": status, "error": error, "instances": instances}


@pytest.fixture
def run(tmp_path: Path) -> str:
    parts = [
        [prediction("a", 0.5, 0.9), prediction("b", 0.25), prediction("nothing")],
        [prediction("c", 0.75), prediction("y", error="damaged"), prediction("x", error="empty")],
    ]
    for index, rows in enumerate(parts):
        table = pa.Table.from_pylist(rows, schema=PREDICTIONS)
        write_parquet(str(tmp_path / "run" / "predictions" / f"part-{index}.parquet"), table)
    return str(tmp_path / "run")


def test_the_lowest_scores_come_first_and_failures_apart(run: str) -> None:
    sample = sample_run(run, 2, 1, 0.0)
    assert [row["image_id"] for row in sample.lowest] == ["b", "a"]
    assert [row["image_id"] for row in sample.empty] == ["nothing"]
    assert [row["image_id"] for row in sample.failed] == ["x"]
    assert [row["image_id"] for row in sample_run(run, 9, 9, 0.0).lowest] == ["b", "a", "c"]


def test_only_instances_that_count_are_looked_at(run: str) -> None:
    sample = sample_run(run, 9, 9, 0.6)
    found = {row["image_id"]: [round(one["score"], 2) for one in row["instances"]] for row in sample.lowest}
    assert found == {"c": [0.75], "a": [0.9]}
    assert [row["image_id"] for row in sample.empty] == ["b", "nothing"]


def test_predictions_of_some_images_are_found_in_all_files(run: str) -> None:
    assert set(predictions_of(run, ["a", "c", "elsewhere"])) == {"a", "c"}
    assert predictions_of(run, ["elsewhere"]) == {}  # none in a whole file


# --- drawing ---------------------------------------------------------------------------------------------------------


def decoded(thumbnail: Thumbnail) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(thumbnail.uri.partition(",")[2])))


@pytest.mark.parametrize(("height", "width"), [(3000, 2000), (40, 60), (30, 3000)])
def test_photos_are_small_and_of_the_stated_size(height: int, width: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)  # hardest to compress
    photo = make_thumbnail("p", encoded(noise))
    assert photo.uri.startswith("data:image/jpeg;base64,")
    assert decoded(photo).size == (photo.width, photo.height)
    assert max(photo.width, photo.height) <= THUMBNAIL_SIDE_PX
    assert len(base64.b64decode(photo.uri.partition(",")[2])) <= THUMBNAIL_BYTES


def test_what_is_no_photo_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(scene(40, 60)))
    (tmp_path / "b.jpg").write_bytes(b"no photo")
    photos = read_photos(open_dataset(str(tmp_path)), ["a.jpg", "b.jpg"])
    assert list(photos) == ["a.jpg"]
    assert (photos["a.jpg"].image_id, photos["a.jpg"].annotations) == ("a.jpg", None)
    with pytest.raises(BadImageError):
        make_thumbnail("p", b"no photo")


def points_of(path: str) -> np.ndarray:
    return np.array([[float(x), float(y)] for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)])


def test_outlines_lie_in_the_photos_own_coordinates() -> None:
    mask = np.zeros((100, 200), np.bool_)
    mask[20:60, 50:150] = True
    points = points_of(outline_of(mask, Thumbnail("p", "", 400, 200)))  # the photo is shown twice as large
    np.testing.assert_allclose(points.min(axis=0), [101, 41], atol=1)
    np.testing.assert_allclose(points.max(axis=0), [299, 119], atol=1)
    assert len(points) == 4


def test_holes_and_parts_have_outlines_of_their_own() -> None:
    mask = disc(100, 100)
    mask[45:55, 45:55] = False
    mask[0:10, 0:10] = True
    assert outline_of(mask, Thumbnail("p", "", 100, 100)).count("M") == 3


def test_no_mask_is_no_outline_and_a_pixel_is_one() -> None:
    empty = np.zeros((10, 10), np.bool_)
    assert outline_of(empty, Thumbnail("p", "", 10, 10)) == ""
    empty[4, 6] = True
    assert outline_of(empty, Thumbnail("p", "", 10, 10)) == "M6.5 4.5Z"


def test_the_wildest_mask_keeps_to_the_limit() -> None:
    noise = np.random.default_rng(1).random((1200, 1600)) < 0.5
    points = points_of(outline_of(noise, Thumbnail("p", "", 640, 480)))
    assert 0 < len(points) <= OUTLINE_POINTS


def test_the_union_of_masks_is_drawn() -> None:
    left, right = np.zeros((10, 20), np.bool_), np.zeros((10, 20), np.bool_)
    left[2:8, 2:10], right[2:8, 8:18] = True, True
    assert outline([encode_rle(left), encode_rle(right)], (10, 20), Thumbnail("p", "", 20, 10)).count("M") == 1
