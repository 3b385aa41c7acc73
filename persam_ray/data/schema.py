"""Arrow schemas of the tables that users and other tools may rely on, and the functions that build and check rows.

IMAGES are the input shards. PREDICTIONS are the output, exactly one row for each input image. MATCHES say which objects
were found, missed or reported wrongly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from persam_ray.errors import PersamRayError
from persam_ray.masks import encode_rle, tight_box
from persam_ray.types import BoolArray, Segmentation

ANNOTATION = pa.struct(
    [
        ("category", pa.string()),
        ("rle", pa.string()),
        ("bbox_xywh", pa.list_(pa.float32())),
        ("area", pa.float32()),
        ("iscrowd", pa.bool_()),
    ]
)

IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("image", pa.binary()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("annotations", pa.list_(ANNOTATION)),
    ]
)

VERSION = pa.field("version", pa.string())
READ = IMAGES.append(pa.field("error", pa.string())).append(VERSION)
"""IMAGES as they travel inside a job. `error` says what went wrong with a row so far; it is null if nothing did.
`version` is that of PREDICTIONS."""

INSTANCE = pa.struct(
    [
        ("category", pa.string()),
        ("score", pa.float32()),
        ("box_xyxy", pa.list_(pa.float32())),
        ("area", pa.int64()),
        ("rle", pa.string()),
        ("similarity", pa.float32()),
        ("predicted_iou", pa.float32()),
    ]
)

PREDICTIONS = pa.schema(
    [
        ("image_id", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("instances", pa.list_(INSTANCE)),
        VERSION,
    ]
)
"""`version` tells whether the photo's file (or the shard that holds it) has changed: its size and ETag, or the time of
its last change, when it was listed. It is empty if the storage gives neither, and null if the photo could not be read,
so that the next run tries again."""

MATCHES = pa.schema(
    [
        ("image_id", pa.string()),
        ("category", pa.string()),
        ("kind", pa.string()),
        ("prediction", pa.int32()),
        ("truth", pa.int32()),
        ("iou", pa.float32()),
        ("score", pa.float32()),
        ("area", pa.int64()),
    ]
)
"""One row for each object that was found, missed or reported wrongly. `kind` is tp, fp or fn. `prediction` and `truth`
are positions within the image. `iou` is the IoU of the match; for fp and fn it is the best that there was. `area` in
pixels is that of the truth; for fp it is that of the prediction."""


class SchemaError(PersamRayError, ValueError):
    """A Parquet file's columns are not those of the contract; the message names the file and the column."""


def prediction_row(
    image_id: str,
    size_hw: tuple[int, int] | None,
    error: str | None = None,
    instances: Sequence[Mapping[str, Any]] = (),
    version: str | None = None,
) -> dict[str, Any]:
    """Return a row of PREDICTIONS as plain values.

    Args:
        image_id: The photo's key, as in the input.
        size_hw: (h, w) of the original photo in pixels; None if it could not be decoded.
        error: What was wrong with the photo; None if it was labeled.
        instances: Found instances, from `instance_row`; empty if there are none or the photo failed.
        version: Version of the photo's file; None if it could not be read.
    """
    height, width = size_hw or (None, None)
    return {
        "image_id": image_id,
        "height": height,
        "width": width,
        "status": "ok" if error is None else "failed",
        "error": error,
        "instances": list(instances),
        "version": version,
    }


def instance_row(instance: Segmentation) -> dict[str, Any]:
    """Return an instance as plain values of the INSTANCE struct, its mask as RLE."""
    return {
        "category": instance.category,
        "score": instance.score,
        **mask_fields(instance.mask_hw),
        "similarity": instance.similarity,
        "predicted_iou": instance.predicted_iou,
    }


def mask_fields(mask_hw: BoolArray) -> dict[str, Any]:
    """Return the values of the INSTANCE struct that follow from a non-empty mask (h, w): box, area and RLE."""
    area = int(np.count_nonzero(mask_hw))
    return {"box_xyxy": list(tight_box(mask_hw)), "area": area, "rle": encode_rle(mask_hw)}


def annotation_row(
    category: str, rle: str, *, bbox_xywh: Iterable[float], area: float, iscrowd: bool = False
) -> dict[str, Any]:
    """Return one annotated object as plain values of the ANNOTATION struct; box and area are in pixels."""
    return {"category": category, "rle": rle, "bbox_xywh": list(bbox_xywh), "area": area, "iscrowd": iscrowd}


def check_inert(schema: pa.Schema, where: str) -> None:
    """Raise SchemaError if a column that we read has a type that Python code defines.

    Ray registers such types with Arrow. One of them unpickles the file's content, which can run code.
    """
    names = {*IMAGES.names, *PREDICTIONS.names, *MATCHES.names}
    for field in schema:
        if field.name in names and _is_python_type(field.type):
            raise SchemaError(f"{where}: column {field.name!r} is of the type {field.type}, which could run code")


def _is_python_type(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.ExtensionType):  # those that Arrow itself defines are BaseExtensionTypes
        return True
    if isinstance(kind, pa.DictionaryType):
        return _is_python_type(kind.value_type)
    return any(_is_python_type(kind.field(place).type) for place in range(kind.num_fields))


def check_text(table: pa.Table, where: str) -> None:
    """Raise SchemaError if a column holds invalid values, such as text that is not UTF-8: Parquet does not check."""
    for field, column in zip(table.schema, table.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            raise SchemaError(f"{where}: column {field.name!r} is damaged ({error})") from error


def conform(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """Cast a table to a schema: columns in its order, missing optional ones filled with nulls, extra ones dropped.

    Args:
        table: A table as it was read.
        schema: The schema wanted, such as IMAGES or PREDICTIONS.
        where: The file, for the message.

    Raises:
        SchemaError: A column that every row needs is missing, or a column cannot be cast.
    """
    columns = []
    for field in schema:
        if field.name in table.column_names:
            try:
                columns.append(table[field.name].cast(field.type))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
                got = table.schema.field(field.name).type
                raise SchemaError(f"{where}: column {field.name!r} must be {field.type}, but it is {got}") from error
        elif field.name in {"image_id", "image", "status", "instances"}:
            raise SchemaError(f"{where}: has no column {field.name!r} (its columns: {', '.join(table.column_names)})")
        else:
            columns.append(pa.nulls(len(table), field.type))
    return pa.table(columns, schema=schema)
