"""The first stage: READ rows (16 photos, 1 to 64 MB) become PIXELS rows (0.8 MB each at 512 pixels, 3 MB at 1024)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from persam_ray.data.annotations import BadAnnotationError, check_truth
from persam_ray.images import BadImageError, decode_photo, resize_photo
from persam_ray.stages.tables import PIXELS


@dataclass(frozen=True)
class DecodeImages:
    """Decodes photos and resizes them to the model frame. A photo that cannot be decoded stays a row with its `error`.

    Attributes:
        frame_hw: Maps the (h, w) of a photo to the (h, w) at which the model takes it, both in pixels.
    """

    frame_hw: Callable[[tuple[int, int]], tuple[int, int]]

    def __call__(self, table: pa.Table) -> pa.Table:
        """Turn READ rows into PIXELS rows."""
        return pa.Table.from_pylist([self._timed(row) for row in _rows(table)], schema=PIXELS)

    def _timed(self, row: dict[str, Any]) -> dict[str, Any]:
        started_s = time.perf_counter()
        decoded = self._decode(row)
        return decoded | {"decode_s": time.perf_counter() - started_s}

    def _decode(self, row: dict[str, Any]) -> dict[str, Any]:
        decoded: dict[str, Any] = {
            "image_id": row["image_id"],
            "annotations": row["annotations"],
            "error": row["error"],
            "version": row["version"],
        }
        if row["error"] is None:
            try:
                photo = decode_photo(row["image"] or b"")
                size_hw = photo.height, photo.width
                decoded |= {"height": photo.height, "width": photo.width}
                check_truth(row, size_hw)
                resized = resize_photo(photo, self.frame_hw(size_hw))
            except (BadImageError, BadAnnotationError) as error:
                decoded["error"] = str(error)
            else:
                decoded |= {
                    "pixels": resized.tobytes(),
                    "pixels_height": resized.shape[0],
                    "pixels_width": resized.shape[1],
                }
        return decoded


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield a table's rows as plain values, with one photo in Python's memory at a time."""
    for batch in table.to_batches(max_chunksize=1):
        yield batch.to_pylist()[0]
