import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from persam_ray.data.schema import (
    ANNOTATION,
    IMAGES,
    INSTANCE,
    PREDICTIONS,
    READ,
    SchemaError,
    conform,
    instance_row,
    prediction_row,
)
from persam_ray.masks import decode_rle
from persam_ray.types import Segmentation

MASK = np.zeros((4, 5), np.bool_)
MASK[1:3, 2:4] = True


def stored(table: pa.Table) -> pa.Table:
    """Write a table as Parquet and read it."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return pq.read_table(io.BytesIO(buffer.getvalue()))


# --- the contract ----------------------------------------------------------------------------------------------------


def names_and_types(fields: Any) -> dict[str, str]:
    return {field.name: str(field.type) for field in fields}


def test_the_columns_are_those_of_the_contract() -> None:
    # written out from sections 4.1 and 4.2 of the design
    assert names_and_types(ANNOTATION) == {
        "category": "string", "rle": "string", "bbox_xywh": "list<item: float>", "area": "float", "iscrowd": "bool",
    }  # fmt: skip
    assert names_and_types(IMAGES) == {
        "image_id": "string", "image": "binary", "height": "int32", "width": "int32",
        "annotations": f"list<item: {ANNOTATION}>",
    }  # fmt: skip
    assert names_and_types(INSTANCE) == {
        "category": "string", "score": "float", "box_xyxy": "list<item: float>", "area": "int64", "rle": "string",
        "similarity": "float", "predicted_iou": "float",
    }  # fmt: skip
    assert names_and_types(PREDICTIONS) == {
        "image_id": "string", "height": "int32", "width": "int32", "status": "string", "error": "string",
        "instances": f"list<item: {INSTANCE}>", "version": "string",
    }  # fmt: skip
    assert READ.names == [*IMAGES.names, "error", "version"]


def test_a_prediction_survives_parquet() -> None:
    found = Segmentation("cup", MASK, (2.0, 1.0, 4.0, 3.0), 0.5, similarity=0.75, predicted_iou=0.25)
    row = prediction_row("a/b.jpg", (4, 5), None, [instance_row(found)])
    (read,) = stored(pa.Table.from_pylist([row], schema=PREDICTIONS)).to_pylist()
    instance = read["instances"][0]
    np.testing.assert_array_equal(decode_rle(instance.pop("rle"), (4, 5)), MASK)
    assert instance == {
        "category": "cup", "score": 0.5, "box_xyxy": [2.0, 1.0, 4.0, 3.0], "area": 4, "similarity": 0.75,
        "predicted_iou": 0.25,
    }  # fmt: skip
    assert {key: read[key] for key in PREDICTIONS.names[:5]} == {
        "image_id": "a/b.jpg", "height": 4, "width": 5, "status": "ok", "error": None,
    }  # fmt: skip


def test_a_failed_image_has_a_reason_no_instances_and_perhaps_no_size() -> None:
    row = prediction_row("a.jpg", None, "damaged")
    assert row == {
        "image_id": "a.jpg", "height": None, "width": None, "status": "failed", "error": "damaged", "instances": [],
        "version": None,
    }  # fmt: skip


def test_what_another_method_does_not_know_is_null() -> None:
    row = prediction_row("a.jpg", (4, 5), None, [instance_row(Segmentation("cup", MASK, (2, 1, 4, 3), 1.0))])
    assert (row["instances"][0]["similarity"], row["instances"][0]["predicted_iou"]) == (None, None)


# --- tables of others ------------------------------------------------------------------------------------------------

ANNOTATED = [{"category": "cup", "rle": "92203", "bbox_xywh": [2.0, 1.0, 2.0, 2.0], "area": 4.0, "iscrowd": False}]
BASE = {"image_id": pa.array(["a", "b"]), "image": pa.array([b"1", b"2"])}
OTHER_STRUCT = pa.large_list(
    pa.struct(
        [
            ("area", pa.float64()),
            ("rle", pa.large_string()),
            ("category", pa.large_string()),
            ("iscrowd", pa.int64()),
            ("bbox_xywh", pa.list_(pa.float64())),
            ("id", pa.int64()),
        ]
    )
)


def test_columns_are_ordered_filled_and_dropped_to_fit() -> None:
    table = pa.table({"url": ["x", "y"], "image": BASE["image"], "image_id": BASE["image_id"]})
    conformed = conform(table, IMAGES, "here")
    assert conformed.schema == IMAGES
    assert conformed.to_pylist()[1] == {
        "image_id": "b", "image": b"2", "height": None, "width": None, "annotations": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "column",
    [
        {"image_id": pa.array(["a", "b"], pa.large_string()), "image": pa.array([b"1", b"2"], pa.large_binary())},
        {"image_id": pa.array(["a", "b"], pa.string_view()), "image": pa.array([b"1", b"2"], pa.binary_view())},
        {"image_id": pa.array(["a", "b"]).dictionary_encode(), "image": pa.array([b"1", b"2"]).dictionary_encode()},
        {"image": pa.array([b"1", b"2"], pa.binary(1))},
        {"height": pa.array([4, None]), "width": pa.array([5.0, None])},
        {"annotations": pa.nulls(2)},
        {"annotations": pa.array([ANNOTATED, None], pa.list_(ANNOTATION))},
        {"annotations": pa.array([[ANNOTATED[0] | {"iscrowd": 0, "id": 9}], None], OTHER_STRUCT)},
    ],
    ids=["large", "view", "dictionary", "fixed size", "wide numbers", "null", "the same", "another struct"],
)
def test_other_types_of_the_same_meaning_are_cast(column: dict[str, pa.Array]) -> None:
    conformed = conform(stored(pa.table(BASE | column)), IMAGES, "here")
    assert conformed.schema == IMAGES
    first = conformed.to_pylist()[0]
    assert (first["image_id"], first["image"]) == ("a", b"1")
    assert first["annotations"] in (None, ANNOTATED)
    assert ("annotations" in column and column["annotations"].null_count < 2) == (first["annotations"] == ANNOTATED)


def test_an_annotation_struct_without_optional_fields_is_filled_with_nulls() -> None:
    column = pa.array([[{"rle": "92203", "category": "cup"}], []])
    rows = conform(pa.table(BASE | {"annotations": column}), IMAGES, "here")["annotations"].to_pylist()
    assert rows == [
        [{"category": "cup", "rle": "92203", "bbox_xywh": None, "area": None, "iscrowd": None}], [],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (pa.table({"image": [b"1"], "key": ["a"]}), r"here: has no column 'image_id' \(its columns: image, key\)"),
        (pa.table({"image_id": ["a"]}), "here: has no column 'image'"),
        (
            pa.table({"image_id": ["a"], "image": [{"bytes": b"1"}]}),
            "column 'image' must be binary, but it is struct<bytes: binary>",
        ),
        (pa.table({"image_id": ["a"], "image": [b"1"], "height": [2**40]}), "column 'height' must be int32"),
        (pa.table({"image_id": ["a"], "image": [b"1"], "height": [4.5]}), "must be int32, but it is double"),
        (pa.table({"image_id": ["a"], "image": [b"1"], "annotations": ["x"]}), "column 'annotations' must be list"),
        (pa.table({"image_id": [b"\xff"], "image": [b"1"]}), "must be string, but it is binary"),
    ],
)
def test_a_column_of_another_meaning_is_named(table: pa.Table, reason: str) -> None:
    with pytest.raises(SchemaError, match=reason):
        conform(table, IMAGES, "here")


def test_an_empty_table_conforms() -> None:
    assert conform(pa.table(BASE).slice(0, 0), IMAGES, "here").num_rows == 0
