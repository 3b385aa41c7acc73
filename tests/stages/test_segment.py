"""The stage that holds SAM: each photo is encoded once, failed rows pass through, order is kept."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from persam_ray.compute.precision import Precision
from persam_ray.data.checkpoints import read_checkpoint
from persam_ray.data.schema import PREDICTIONS
from persam_ray.data.weights import locate
from persam_ray.images import resized_size_hw
from persam_ray.masks import decode_rle
from persam_ray.methods.persam_f import PersamFTarget
from persam_ray.methods.references import encode_references
from persam_ray.methods.registry import SAM_METHODS, MethodName, make_method
from persam_ray.sam.model import Sam
from persam_ray.stages import segment
from persam_ray.stages.decode import DecodeImages
from persam_ray.stages.feature_cache import FeatureCache
from persam_ray.stages.segment import SegmentWithSam, _ahead
from persam_ray.stages.tables import PIXELS
from persam_ray.stages.targets import SegmentOptions
from persam_ray.types import Checkpoint, Reference, Target
from tests.conftest import scene
from tests.encoded_images import encoded

OPTIONS = SegmentOptions("cpu", 2, 1, "float32", "aligned")
Reported = list[tuple[int, int]]


@pytest.fixture(scope="module", params=SAM_METHODS)
def targets(request: pytest.FixtureRequest, small_sam: Sam, disc_reference: Reference) -> list[Target]:
    other = Reference("other", disc_reference.image_hw3, ~disc_reference.mask_hw)
    return [learned(request.param, small_sam, reference) for reference in (disc_reference, other)]


def learned(method: MethodName, sam: Sam, reference: Reference) -> Target:
    return make_method(method).learn(sam, encode_references(sam, [reference]))


def pixels(*names: str, image_size_px: int = 128) -> pa.Table:
    """Decode a photo for each name; `bad` is none."""
    rows = [
        {"image_id": name, "image": b"no" if name == "bad" else encoded(scene(60, 80 + index)), "annotations": None}
        | {"height": None, "width": None, "error": None, "version": "1-a"}
        for index, name in enumerate(names)
    ]
    return DecodeImages(partial(resized_size_hw, image_size_px=image_size_px))(pa.Table.from_pylist(rows))


def stage(
    checkpoint: Checkpoint,
    targets: list[Target],
    reported: Reported | None = None,
    options: SegmentOptions = OPTIONS,
) -> SegmentWithSam:
    calls: Reported = [] if reported is None else reported
    method: MethodName = "persam_f" if isinstance(targets[0], PersamFTarget) else "persam"
    return SegmentWithSam(lambda: (checkpoint, {method: targets}), options, lambda *numbers: calls.append(numbers))


def predictions(labeled: pa.Table) -> pa.Table:
    return labeled.select(PREDICTIONS.names)


def test_two_categories_encode_each_photo_once(
    small_checkpoint: Checkpoint, targets: list[Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded_photos: list[int] = []
    encode = Sam.encode

    def counting(self: Sam, resized: Any) -> Any:
        encoded_photos.append(len(resized))
        return encode(self, resized)

    monkeypatch.setattr(Sam, "encode", counting)
    labeled = stage(small_checkpoint, targets)(pixels("a", "b", "c"))
    assert sum(encoded_photos) == 3
    found = {instance["category"] for row in labeled.to_pylist() for instance in row["instances"]}
    assert found == {"disc", "other"}


@pytest.mark.parametrize("method", SAM_METHODS)
def test_two_categories_give_what_each_gives_alone(method: MethodName, disc_reference: Reference) -> None:
    checkpoint = read_checkpoint(locate("demo"))  # not seeded weights, in which the order of a sum decides on masks
    sam = Sam(checkpoint, precision="float32")
    background = Reference("other", disc_reference.image_hw3, ~disc_reference.mask_hw)
    targets = [learned(method, sam, reference) for reference in (disc_reference, background)]
    table = pixels("a", "b", image_size_px=sam.image_size_px)
    both = stage(checkpoint, targets)(table).to_pylist()
    for index, target in enumerate(targets):
        alone = stage(checkpoint, [target])(table).to_pylist()
        for row, row_alone in zip(both, alone, strict=True):
            kept, expected = row["instances"][index], row_alone["instances"][0]
            first, second = (decode_rle(one["rle"], (row["height"], row["width"])) for one in (kept, expected))
            assert (first & second).sum() > 0.99 * (first | second).sum()
            assert kept["category"] == expected["category"] == target.category
            assert kept["score"] == pytest.approx(expected["score"], abs=1e-4)


@pytest.mark.parametrize(("batch_size", "precision"), [(1, "float32"), (2, "bfloat16")])
def test_cached_features_give_the_same_rows_to_the_bit_and_no_photo_is_encoded(
    batch_size: int,
    precision: Precision,
    small_checkpoint: Checkpoint,
    targets: list[Target],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = pixels("a", "b", "bad", "c")
    plain = replace(OPTIONS, precision=precision, batch_size=batch_size)
    caching = replace(plain, cache=FeatureCache(str(tmp_path), 10**9))
    expected = stage(small_checkpoint, targets, options=plain)(table)
    first = stage(small_checkpoint, targets, options=caching)(table)
    monkeypatch.setattr(Sam, "encode", None)
    second = stage(small_checkpoint, targets, options=caching)(table)
    assert [predictions(rows) for rows in (first, second)] == [predictions(expected)] * 2
    assert expected["cache"].to_pylist() == [None] * 4
    assert first["cache"].to_pylist() == ["miss", "miss", None, "miss"]
    assert second["cache"].to_pylist() == ["hit", "hit", None, "hit"]


def test_a_failed_row_passes_through_in_its_place(small_checkpoint: Checkpoint, targets: list[Target]) -> None:
    reported: Reported = []
    rows = stage(small_checkpoint, targets, reported)(pixels("a", "bad", "c")).to_pylist()
    assert [(row["image_id"], row["status"]) for row in rows] == [("a", "ok"), ("bad", "failed"), ("c", "ok")]
    assert rows[1]["instances"] == []
    assert "not an image" in rows[1]["error"]
    assert sum(images for images, _ in reported) == 3
    assert sum(failed for _, failed in reported) == 1


def test_every_row_has_the_seconds_that_it_took_and_of_other_methods_none(
    small_checkpoint: Checkpoint, small_sam: Sam, disc_reference: Reference
) -> None:
    targets = {method: [learned(method, small_sam, disc_reference)] for method in SAM_METHODS}
    both = SegmentWithSam(lambda: (small_checkpoint, targets), replace(OPTIONS, batch_size=2), lambda *_: None)
    table = pixels("a", "bad", "c")
    rows = both(table).to_pylist()
    seconds = [dict(row["seconds"]) for row in rows]
    steps = [{"decode", "encode"} | {row["method"]} if row["status"] == "ok" else {"decode"} for row in rows]
    assert [set(one) for one in seconds] == steps
    assert [one["decode"] for one in seconds] == 2 * table["decode_s"].to_pylist()
    assert all(value > 0 for one in seconds for value in one.values())
    a, _, c = seconds[:3]
    assert (a["encode"], a["persam"]) == (c["encode"], c["persam"])  # of one batch: equal parts


def test_a_table_of_failures_alone_needs_no_model_call(small_checkpoint: Checkpoint, targets: list[Target]) -> None:
    table = pixels("bad")
    assert table.schema.equals(PIXELS)
    assert [row["status"] for row in stage(small_checkpoint, targets)(table).to_pylist()] == ["failed"]


def test_a_question_asked_before_the_last_answer_is_taken_changes_no_answer(
    small_checkpoint: Checkpoint, targets: list[Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pixels("a", "bad", "b", "c")
    monkeypatch.setattr(segment, "PROMPTS_AT_ONCE", 1)  # a question for each target of a photo
    one_by_one, reported = stage(small_checkpoint, targets)(table), list[tuple[int, int]]()
    monkeypatch.setattr(SegmentWithSam, "_questions_ahead", 1)
    assert predictions(stage(small_checkpoint, targets, reported)(table)) == predictions(one_by_one)
    assert reported == [(1, 1), (1, 0), (1, 0), (1, 0)]


def test_so_many_items_are_made_before_the_first_is_taken() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(4):
            made.append(number)
            yield number

    taken = [(number, len(made)) for number in _ahead(items(), 1)]
    assert taken == [(0, 2), (1, 3), (2, 4), (3, 4)]
