"""Between a table and a model: the photos that it can look at, their pixels, and the rows that come of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from persam_ray.data.schema import prediction_row
from persam_ray.runs.effort import CacheOutcome
from persam_ray.stages.progress import Report
from persam_ray.stages.tables import LABELED
from persam_ray.types import ByteArray


@dataclass(frozen=True)
class DecodedPhoto:
    """A row of PIXELS that a model can look at.

    Attributes:
        index: Position of the row in its table.
        size_hw: (h, w) of the original photo.
        pixels_hw3: uint8 RGB of the model frame, a view of the table's memory.
    """

    index: int
    size_hw: tuple[int, int]
    pixels_hw3: ByteArray


class TableLabels:
    """What a model finds in the photos of one table, gathered into LABELED rows.

    Args:
        table: PIXELS rows.
        methods: Names of the methods that label it; each gives a row for each photo.

    Attributes:
        photos: The rows that a model can look at; the others have failed already.
    """

    def __init__(self, table: pa.Table, methods: Iterable[str]) -> None:
        self._table = table
        self._rows = table.drop(["pixels", "pixels_height", "pixels_width"]).to_pylist()
        self.photos = [
            DecodedPhoto(index, (row["height"], row["width"]), _pixels_of(table, index))
            for index, row in enumerate(self._rows)
            if row["error"] is None
        ]
        self._instances: dict[str, dict[int, list[dict[str, Any]]]] = {
            method: {photo.index: [] for photo in self.photos} for method in methods
        }
        self._seconds = {method: [{"decode": row["decode_s"]} for row in self._rows] for method in self._instances}
        self._cache: dict[int, tuple[CacheOutcome, str | None]] = {}

    def report_failed(self, report: Report) -> None:
        """Report the photos that had failed before."""
        if failed := len(self._rows) - len(self.photos):
            report(failed, failed)

    def add(self, method: str, photo: DecodedPhoto, instances: Iterable[dict[str, Any]]) -> None:
        """Add instances that a method has found in a photo, their masks encoded (`data.schema.instance_row`)."""
        self._instances[method][photo.index] += instances

    def spend(
        self, step: str, photos: Sequence[DecodedPhoto], seconds: float, methods: Iterable[str] | None = None
    ) -> None:
        """Add the seconds that a step took for some photos, in equal parts.

        Args:
            step: Its name.
            photos: The photos that it was done for.
            seconds: What it took.
            methods: Whose rows have them; None for all, which share the step.
        """
        for method in self._instances if methods is None else methods:
            for photo in photos:
                spent = self._seconds[method][photo.index]
                spent[step] = spent.get(step, 0.0) + seconds / len(photos)

    def looked_up(self, photo: DecodedPhoto, outcome: CacheOutcome, failure: str | None) -> None:
        """Note what came of the feature cache for a photo, and why it failed, if it did."""
        self._cache[photo.index] = outcome, failure

    def to_table(self) -> pa.Table:
        """Return LABELED rows: each method's, in the table's order."""
        rows = [
            self._labeled_row(method, index, row) for method in self._instances for index, row in enumerate(self._rows)
        ]
        return pa.Table.from_pylist(rows, schema=LABELED)

    def _labeled_row(self, method: str, index: int, row: Mapping[str, Any]) -> dict[str, Any]:
        size_hw = None if row["height"] is None else (row["height"], row["width"])
        instances = self._instances[method].get(index, ())
        outcome, failure = self._cache.get(index, (None, None))
        return {
            **prediction_row(row["image_id"], size_hw, row["error"], instances, row["version"]),
            "annotations": row["annotations"],
            "method": method,
            "seconds": list(self._seconds[method][index].items()),
            "cache": outcome,
            "cache_failure": failure,
        }


def _pixels_of(table: pa.Table, index: int) -> ByteArray:
    flat = np.frombuffer(table["pixels"][index].as_buffer(), dtype=np.uint8)
    return flat.reshape(table["pixels_height"][index].as_py(), table["pixels_width"][index].as_py(), 3)
