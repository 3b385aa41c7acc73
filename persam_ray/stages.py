"""The stages of a labeling job: tables in, tables out, for Ray Data's map_batches; no ray here.

READ rows (16 photos, 1 to 64 MB)
  -> DecodeImages        CPU tasks: bytes -> upright RGB -> resized pixels (0.8 MB at 512, 3 MB at 1024)
  -> SegmentWithPersam   actors with SAM: pixels end here, a few KB of run-length strings go on
  -> WritePredictions    CPU tasks: one Parquet file per call, one small summary row goes on
"""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from persam_ray.annotations import BadAnnotationError, check_truth
from persam_ray.images import BadImageError, decode_image, resize_longest_side
from persam_ray.judging import JudgeOptions, judge_rows, keys_digest, pack
from persam_ray.schema import ANNOTATION, IMAGES, PREDICTIONS, Prediction
from persam_ray.storage import join, write_bytes
from persam_ray.types import ByteArray, Segmentation

if TYPE_CHECKING:
    import torch

    from persam_ray.persam import Guidance, RawMask
    from persam_ray.sam import Precision, Sam
    from persam_ray.types import Checkpoint, Frame, Target

PIXELS = pa.schema(
    [
        ("image_id", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("pixels", pa.binary()),
        ("pixels_height", pa.int32()),
        ("pixels_width", pa.int32()),
        ("annotations", pa.list_(ANNOTATION)),
        ("error", pa.string()),
    ]
)
"""`pixels` is the RGB of the model frame as bytes, (pixels_height, pixels_width, 3) row by row."""

LABELED = PREDICTIONS.append(pa.field("annotations", pa.list_(ANNOTATION)))
"""PREDICTIONS with the ground truth still beside them, for the writer to compare."""

SUMMARY = pa.schema(
    [
        ("images", pa.int64()),
        ("ok", pa.int64()),
        ("failed", pa.int64()),
        ("instances", pa.int64()),
        ("summary", pa.binary()),
    ]
)

Report = Callable[[int, int, Mapping[str, float]], None]
"""Called with images done, images failed among them, and seconds spent by step; for progress display only."""


@dataclass(frozen=True)
class DecodeImages:
    """Bytes to pixels of the model frame; a row that cannot be decoded keeps going with its `error`.

    Attributes:
        image_size_px: The longest side that SAM takes.
    """

    image_size_px: int

    def __call__(self, table: pa.Table) -> pa.Table:
        """Turn READ rows into PIXELS rows."""
        return pa.Table.from_pylist([self._decode(row) for row in _rows(table)], schema=PIXELS)

    def _decode(self, row: dict[str, Any]) -> dict[str, Any]:
        decoded: dict[str, Any] = {
            "image_id": row["image_id"],
            "annotations": row["annotations"],
            "error": row["error"],
        }
        if row["error"] is None:
            try:
                image_hw3 = decode_image(row["image"] or b"")
                height, width = image_hw3.shape[:2]
                decoded |= {"height": height, "width": width}
                check_truth(row, (height, width))
                resized = resize_longest_side(image_hw3, self.image_size_px)
            except (BadImageError, BadAnnotationError) as error:
                decoded["error"] = str(error)
            else:
                decoded |= {
                    "pixels": resized.tobytes(),
                    "pixels_height": resized.shape[0],
                    "pixels_width": resized.shape[1],
                }
        return decoded


@dataclass(frozen=True)
class SegmentOptions:
    """How to segment.

    Attributes:
        device: `cuda` or `cpu`.
        threads: Of torch on the CPU.
        batch_size: Images in one pass of the encoder. 1 on a CPU: a larger batch gains nothing there, and with 1 an
            image's result does not depend on its neighbours, to the last bit.
        precision: Of the encoder.
        guidance: Of PerSAM's attention.
        min_area_fraction: Components under this part of the image are dropped.
    """

    device: str
    threads: int
    batch_size: int
    precision: Precision
    guidance: Guidance
    min_area_fraction: float


class SegmentWithPersam:
    """Holds SAM and the targets; each image is encoded once, then every category is decoded on its features.

    Args:
        load: Returns the checkpoint and the targets (from the object store, where all actors share them).
        options: How to segment.
        report: Where progress goes.
    """

    def __init__(
        self,
        load: Callable[[], tuple[Checkpoint, Sequence[Target]]],
        options: SegmentOptions,
        report: Report,
    ) -> None:
        checkpoint, targets = load()
        self._sam = load_sam(checkpoint, options)
        self._targets = [_on_device(target, self._sam.device) for target in targets]
        self._options = options
        self._report = report

    def __call__(self, table: pa.Table) -> pa.Table:
        """Turn PIXELS rows into LABELED rows, in the same order."""
        rows = table.drop(["pixels"]).to_pylist()
        labeled = {
            index: Prediction(row["image_id"], _size_hw(row), row["error"])
            for index, row in enumerate(rows)
            if row["error"]
        }
        if labeled:
            self._report(len(labeled), len(labeled), {})
        usable = [index for index in range(len(rows)) if index not in labeled]
        for start in range(0, len(usable), self._options.batch_size):
            indices = usable[start : start + self._options.batch_size]
            pixels = [_pixels(table, index) for index in indices]
            labeled |= zip(indices, self._label([rows[index] for index in indices], pixels), strict=True)
        labeled_rows = [labeled[index].to_row() | {"annotations": row["annotations"]} for index, row in enumerate(rows)]
        return pa.Table.from_pylist(labeled_rows, schema=LABELED)

    def _label(self, rows: Sequence[Mapping[str, Any]], pixels: Sequence[ByteArray]) -> list[Prediction]:
        started_s = time.perf_counter()
        features_bchw = self._sam.encode(pixels)
        encoded_s = time.perf_counter()
        frames = [self._sam.frame((row["height"], row["width"])) for row in rows]
        found: list[list[Segmentation]] = [[] for _ in rows]
        for target in self._targets:
            for instances, raw in zip(found, self._segment(features_bchw, frames, target), strict=True):
                instance = _instance(raw, target.category, self._options.min_area_fraction)
                if instance is not None:
                    instances.append(instance)
        seconds = {"encode": encoded_s - started_s, "segment": time.perf_counter() - encoded_s}
        self._report(len(rows), 0, seconds)
        return [
            Prediction(row["image_id"], frame.original_hw, None, tuple(instances))
            for row, frame, instances in zip(rows, frames, found, strict=True)
        ]

    def _segment(self, features_bchw: torch.Tensor, frames: Sequence[Frame], target: Target) -> list[RawMask | None]:
        from persam_ray import persam, persam_f

        if target.mask_weights_3 is None:
            return persam.segment(self._sam, features_bchw, frames, target, self._options.guidance)
        return persam_f.segment_f(self._sam, features_bchw, frames, target)


def load_sam(checkpoint: Checkpoint, options: SegmentOptions) -> Sam:
    """Build SAM on the options' device with the options' threads."""
    import torch

    from persam_ray.sam import Sam

    torch.set_num_threads(options.threads)
    return Sam(checkpoint, options.device, options.precision)


def _on_device(target: Target, device: torch.device) -> Target:
    from dataclasses import replace

    weights = target.mask_weights_3
    return replace(
        target,
        feature_c=target.feature_c.to(device),
        embedding_c=target.embedding_c.to(device),
        mask_weights_3=None if weights is None else weights.to(device),
    )


def _instance(raw: RawMask | None, category: str, min_area_fraction: float) -> Segmentation | None:
    from persam_ray.persam import to_instance

    return None if raw is None else to_instance(raw, category, min_area_fraction)


def _pixels(table: pa.Table, index: int) -> ByteArray:
    """Return a row's pixels (h, w, 3) as a view of the table's memory."""
    flat = np.frombuffer(table["pixels"][index].as_buffer(), dtype=np.uint8)
    return flat.reshape(table["pixels_height"][index].as_py(), table["pixels_width"][index].as_py(), 3)


def _size_hw(row: Mapping[str, Any]) -> tuple[int, int] | None:
    return None if row["height"] is None else (row["height"], row["width"])


@dataclass(frozen=True)
class WritePredictions:
    """Writes each table as one Parquet file, named after its keys, so that a retried task writes the same file again.

    Attributes:
        folder: URI to write below.
        categories: What is judged, where a row has ground truth.
        reference_ids: Keys that are not judged: the method has seen their masks.
    """

    folder: str
    categories: tuple[str, ...]
    reference_ids: frozenset[str] = frozenset()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Write LABELED rows and return one SUMMARY row; its `summary` is null where no row has ground truth."""
        buffer = io.BytesIO()
        pq.write_table(table.select(PREDICTIONS.names).cast(PREDICTIONS), buffer, compression="zstd")
        write_bytes(join(self.folder, f"part-{keys_digest(table)}.parquet"), buffer.getvalue())
        rows = table.drop(["error"]).to_pylist()
        statuses = Counter(row["status"] for row in rows)
        annotated = [row for row in rows if self._is_judged(row)]
        options = JudgeOptions(self.categories)
        counts = {
            "images": len(rows),
            "ok": statuses["ok"],
            "failed": statuses["failed"],
            "instances": sum(len(row["instances"]) for row in rows),
            "summary": pack(judge_rows(annotated, options)[0]) if annotated else None,
        }
        return pa.Table.from_pylist([counts], schema=SUMMARY)

    def _is_judged(self, row: Mapping[str, Any]) -> bool:
        """A photo that failed is not: it was never compared, and the summary counts it."""
        return row["annotations"] is not None and row["status"] == "ok" and row["image_id"] not in self.reference_ids


WRITTEN = pa.schema([("images", pa.int64()), ("problems", pa.list_(pa.string()))])
ROWS_PER_GROUP = 32  # so that a reader of 4 MB photos needs 128 MB, not the whole file


@dataclass(frozen=True)
class WriteImages:
    """Writes each table of READ rows as one Parquet shard of IMAGES rows.

    Attributes:
        folder: URI to write below.
        report: Where progress goes.
    """

    folder: str
    report: Report

    def __call__(self, table: pa.Table) -> pa.Table:
        """Write the rows and return one WRITTEN row; what could not be read of a row is null in it."""
        buffer = io.BytesIO()
        images = table.select(IMAGES.names).cast(IMAGES)
        pq.write_table(images, buffer, compression="none", row_group_size=ROWS_PER_GROUP)  # photos are compressed
        write_bytes(join(self.folder, f"part-{keys_digest(table)}.parquet"), buffer.getvalue())
        errors = table.select(["image_id", "error"]).to_pylist()
        problems = [f"{row['image_id']}: {row['error']}" for row in errors if row["error"]]
        self.report(len(table), len(problems), {})
        return pa.Table.from_pylist([{"images": len(table), "problems": problems}], schema=WRITTEN)


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Walk a table's rows as plain values, one photo in Python's memory at a time."""
    for batch in table.to_batches(max_chunksize=1):
        yield batch.to_pylist()[0]
