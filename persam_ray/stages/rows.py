"""From a table to a model and back: the decoded photos of PIXELS rows, and LABELED rows with the instances found."""

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
    """A decoded photo: a row of PIXELS without an error.

    Attributes:
        index: Position of the row in its table.
        size_hw: (h, w) of the original photo.
        pixels_hw3: uint8 RGB of the model frame, a view of the table's memory.
    """

    index: int
    size_hw: tuple[int, int]
    pixels_hw3: ByteArray


class TableLabels:
    """Collects the instances that a model finds in the photos of one table, and returns LABELED rows.

    Args:
        table: PIXELS rows.
        methods: Names of the methods that label the table; each gives one row for each photo.

    Attributes:
        photos: The decoded photos; the other rows have failed already.
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
        """Report the photos that failed in an earlier stage."""
        if failed := len(self._rows) - len(self.photos):
            report(failed, failed)

    def add(self, method: str, photo: DecodedPhoto, instances: Iterable[dict[str, Any]]) -> None:
        """Add instances that a method has found in a photo, as `data.schema.instance_row` returns them."""
        self._instances[method][photo.index] += instances

    def spend(
        self, step: str, photos: Sequence[DecodedPhoto], seconds: float, methods: Iterable[str] | None = None
    ) -> None:
        """Add the seconds that a step took for some photos, in equal parts.

        Args:
            step: Name of the step.
            photos: The photos that it was done for.
            seconds: Time that it took for all of them.
            methods: Methods whose rows record the seconds; None for all methods, because they share the step.
        """
        for method in self._instances if methods is None else methods:
            for photo in photos:
                spent = self._seconds[method][photo.index]
                spent[step] = spent.get(step, 0.0) + seconds / len(photos)

    def looked_up(self, photo: DecodedPhoto, outcome: CacheOutcome, failure: str | None) -> None:
        """Record the outcome of the feature cache for a photo, and its failure; None if it did not fail."""
        self._cache[photo.index] = outcome, failure

    def to_table(self) -> pa.Table:
        """Return LABELED rows, method by method, each in the table's order."""
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
