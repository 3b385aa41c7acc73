"""Between a table and a model: rows that it can look at, their pixels, and the rows that come of them; no ray here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from persam_ray.data.schema import Prediction
from persam_ray.stages.progress import Report
from persam_ray.stages.tables import LABELED
from persam_ray.types import ByteArray, Segmentation

Row = dict[str, Any]
"""Of PREDICTIONS: run-length strings, no masks, of which a table of large photos would fill the memory."""


@dataclass(frozen=True)
class Photo:
    """A row that a model can look at."""

    index: int
    image_id: str
    size_hw: tuple[int, int]
    version: str | None

    def row(self, instances: Sequence[Segmentation] = ()) -> Row:
        """Return its prediction."""
        return Prediction(self.image_id, self.size_hw, None, tuple(instances), self.version).to_row()


def split(table: pa.Table, report: Report) -> tuple[dict[int, Row], list[Photo]]:
    """Return the predictions of the rows that failed already, by index, and the other rows."""
    rows = table.select(["image_id", "height", "width", "error", "version"]).to_pylist()
    failed, usable = {}, []
    for index, row in enumerate(rows):
        if row["error"] is None:
            usable.append(Photo(index, row["image_id"], (row["height"], row["width"]), row["version"]))
        else:
            size_hw = None if row["height"] is None else (row["height"], row["width"])
            failed[index] = Prediction(row["image_id"], size_hw, row["error"], version=row["version"]).to_row()
    if failed:
        report(len(failed), len(failed), {})
    return failed, usable


def pixels_of(table: pa.Table, index: int) -> ByteArray:
    """Return a row's pixels (h, w, 3) as a view of the table's memory."""
    flat = np.frombuffer(table["pixels"][index].as_buffer(), dtype=np.uint8)
    return flat.reshape(table["pixels_height"][index].as_py(), table["pixels_width"][index].as_py(), 3)


def labeled(table: pa.Table, rows: Mapping[str, Mapping[int, Row]]) -> pa.Table:
    """Return LABELED rows: each method's, by the row of the table that they are of, in the table's order."""
    annotations = table["annotations"].to_pylist()
    in_order: list[Row] = [
        by_index[index] | {"annotations": annotations[index], "method": method}
        for method, by_index in rows.items()
        for index in sorted(by_index)
    ]
    return pa.Table.from_pylist(in_order, schema=LABELED)
