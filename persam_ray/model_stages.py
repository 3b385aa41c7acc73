"""The stages that hold a model: PIXELS rows in, LABELED rows out, one for each photo and method; no ray here.

A photo's pixels end here; a few KB of run-length strings go on. One SAM serves several methods and categories: it
encodes each photo once, or finds its features in a cache.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from persam_ray.feature_cache import CachedEncoder, FeatureCache
from persam_ray.host_memory import keep_freed_memory
from persam_ray.model_libraries import load_libraries
from persam_ray.schema import Prediction
from persam_ray.stages import LABELED, Report
from persam_ray.types import ByteArray, CheckpointError, Segmentation

if TYPE_CHECKING:
    import torch

    from persam_ray.persam import Guidance, RawMask
    from persam_ray.precision import Precision
    from persam_ray.sam import Sam
    from persam_ray.types import Checkpoint, DetectionLimits, Frame, Reference, Target

MASK_RCNN = "mask_rcnn"

PROMPTS_AT_ONCE = 16
"""Prompts that are decoded together, over all photos and targets of a batch: about 25 MB each at 1024 pixels."""


@dataclass(frozen=True)
class SegmentOptions:
    """How to segment by SAM.

    Attributes:
        device: `cuda` or `cpu`.
        threads: Of torch on the CPU.
        batch_size: Images in one pass of the encoder. 1 on a CPU: a larger batch gains nothing there, and with 1 an
            image's result does not depend on its neighbours, to the last bit.
        precision: Of the encoder.
        guidance: Of PerSAM's attention.
        cache: Where encoded photos are kept, and how much an actor may add; None for nowhere.
    """

    device: str
    threads: int
    batch_size: int
    precision: Precision
    guidance: Guidance
    cache: FeatureCache | None = None


class SegmentStage(Protocol):
    """What an actor does to a table."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """Turn PIXELS rows into LABELED rows."""
        ...


class SegmentWithPersam:
    """Holds SAM and the targets; each image is encoded once, then every method and category is decoded on its features.

    Made at once, while the targets may still be in the making; the first call waits for them, and raises what went
    wrong with them.

    Args:
        load: Returns the checkpoint, and the targets of each method by its name (from the object store, where all
            actors share them).
        options: How to segment.
        report: Where progress goes.
    """

    _sam: Sam
    _targets: Mapping[str, Sequence[Target]]
    _cached: CachedEncoder | None = None

    def __init__(
        self,
        load: Callable[[], tuple[Checkpoint, Mapping[str, Sequence[Target]]]],
        options: SegmentOptions,
        report: Report,
    ) -> None:
        keep_freed_memory()
        load_libraries()  # seconds, in which the targets are made elsewhere
        self._load: Callable[[], tuple[Checkpoint, Mapping[str, Sequence[Target]]]] | None = load
        self._options = options
        self._report = report

    def __call__(self, table: pa.Table) -> pa.Table:
        """Turn PIXELS rows into LABELED rows, in the same order within each method."""
        self._begin()
        failed, usable = _split(table, self._report)
        rows = {method: dict(failed) for method in self._targets}
        for batch, encode in self._encoders(usable, [_pixels(table, photo.index) for photo in usable]):
            for method, labeled in self._label(batch, encode):
                rows[method] |= zip((photo.index for photo in batch), labeled, strict=True)
        return _labeled(table, rows)

    def _begin(self) -> None:
        """Build SAM, once."""
        if self._load is None:
            return
        checkpoint, targets = self._load()
        self._sam = load_sam(checkpoint, self._options)
        self._targets = {
            method: [on_device(target, self._sam.device) for target in own] for method, own in targets.items()
        }
        if self._options.cache is not None:
            self._cached = CachedEncoder(self._sam, checkpoint.fingerprint, self._options.cache)
        self._load = None

    def _encoders(
        self, photos: Sequence[_Photo], pixels: Sequence[ByteArray]
    ) -> Iterator[tuple[Sequence[_Photo], Callable[[], torch.Tensor]]]:
        """Yield each batch and what returns its features; behind the last one the cache has all that is new."""
        size = self._options.batch_size
        batches = [slice(start, start + size) for start in range(0, len(photos), size)]
        if self._cached is None:
            yield from ((photos[batch], partial(self._sam.encode, pixels[batch])) for batch in batches)
            return
        asked = self._cached.ask(pixels)
        for batch in batches:
            yield photos[batch], partial(self._cached.encode, pixels[batch], asked[batch])
        started_s = time.perf_counter()
        counts = self._cached.settle()
        self._report(0, 0, counts | {"encode": time.perf_counter() - started_s})

    def _label(self, photos: Sequence[_Photo], encode: Callable[[], torch.Tensor]) -> Iterator[tuple[str, list[_Row]]]:
        started_s = time.perf_counter()
        features_bchw = encode()
        if self._sam.device.type == "cuda" and len(self._targets) > 1:
            self._wait()  # else the first method's clock would run while the encoder works
        seconds = {"encode": time.perf_counter() - started_s}
        frames = [self._sam.frame(photo.size_hw) for photo in photos]
        for method, targets in self._targets.items():
            started_s = time.perf_counter()
            found = self._found(features_bchw, frames, targets)
            yield method, [photo.row(instances) for photo, instances in zip(photos, found, strict=True)]
            seconds[method] = time.perf_counter() - started_s
        self._report(len(photos), 0, seconds)

    def _wait(self) -> None:
        import torch

        torch.cuda.synchronize(self._sam.device)

    def _found(
        self, features_bchw: torch.Tensor, frames: Sequence[Frame], targets: Sequence[Target]
    ) -> list[list[Segmentation]]:
        """Return each photo's instances, in the order of the targets, some of which are decoded together."""
        from persam_ray.persam import to_instance

        at_once = max(1, PROMPTS_AT_ONCE // len(frames))
        found: list[list[Segmentation]] = [[] for _ in frames]
        for start in range(0, len(targets), at_once):
            some = targets[start : start + at_once]
            for instances, masks in zip(found, self._segment(features_bchw, frames, some), strict=True):
                named = zip(masks, some, strict=True)
                possible = [to_instance(raw, target.category) for raw, target in named if raw is not None]
                instances += [instance for instance in possible if instance is not None]
        return found

    def _segment(
        self, features_bchw: torch.Tensor, frames: Sequence[Frame], targets: Sequence[Target]
    ) -> list[list[RawMask | None]]:
        from persam_ray import persam, persam_f

        if targets[0].mask_weights_3 is None:
            return persam.segment(self._sam, features_bchw, frames, targets, self._options.guidance)
        return persam_f.segment_f(self._sam, features_bchw, frames, targets)


def load_sam(checkpoint: Checkpoint, options: SegmentOptions) -> Sam:
    """Build SAM on the options' device with the options' threads."""
    import torch

    from persam_ray.sam import Sam

    torch.set_num_threads(options.threads)
    return Sam(checkpoint, options.device, options.precision)


def on_device(target: Target, device: torch.device | str) -> Target:
    """Return a target whose tensors are on a device."""
    weights = target.mask_weights_3
    return replace(
        target,
        feature_c=target.feature_c.to(device),
        embedding_c=target.embedding_c.to(device),
        mask_weights_3=None if weights is None else weights.to(device),
    )


def make_targets(
    checkpoint: Checkpoint,
    uri: str,
    references: Mapping[str, Sequence[Reference]],
    options: SegmentOptions,
    method: str,
) -> tuple[list[Target], float]:
    """Make a method's targets, on the CPU; beside them, the seconds that it took, SAM being loaded.

    Args:
        checkpoint: Of SAM.
        uri: Where it comes from, for messages.
        references: By category.
        options: How to segment.
        method: `persam` or `persam_f`.

    Raises:
        CheckpointError: The tensors do not fit their layout.
    """
    load_libraries()
    from persam_ray.persam import ReferenceEncoder, make_target
    from persam_ray.persam_f import make_target_f

    # Once for the run, so by all of this machine. A fit at full precision: a rounded point on the reference would move
    # the mask weights, and with them every mask.
    precision = "float32" if method == "persam_f" else options.precision
    try:
        sam = load_sam(checkpoint, replace(options, precision=precision, threads=len(os.sched_getaffinity(0))))
    except CheckpointError as error:
        raise CheckpointError(f"{uri}: {error}") from error
    started_s = time.perf_counter()
    make = {"persam": make_target, "persam_f": make_target_f}[method]
    encode = ReferenceEncoder(sam, [example for examples in references.values() for example in examples])
    targets = [on_device(make(sam, examples, encode), "cpu") for examples in references.values()]
    return targets, time.perf_counter() - started_s


# --- Mask R-CNN ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DetectOptions:
    """How to find instances by Mask R-CNN.

    Attributes:
        device: `cuda` or `cpu`.
        threads: Of torch on the CPU.
        precision: Of the network.
        limits: What is kept.
    """

    device: str
    threads: int
    precision: Precision
    limits: DetectionLimits


class SegmentWithMaskRcnn:
    """Holds a trained Mask R-CNN.

    Args:
        load: Returns the checkpoint.
        options: How to find instances.
        report: Where progress goes.
    """

    def __init__(self, load: Callable[[], Checkpoint], options: DetectOptions, report: Report) -> None:
        load_libraries()
        import torch

        from persam_ray.mask_rcnn import compute_in, from_checkpoint, network_dtype

        torch.set_num_threads(options.threads)
        checkpoint = load()
        self._model = from_checkpoint(checkpoint.tensors, checkpoint.metadata)
        self._model.detector.to(options.device)
        compute_in(self._model, network_dtype(options.precision, options.device))
        self._limits = options.limits
        self._report = report

    def __call__(self, table: pa.Table) -> pa.Table:
        """Turn PIXELS rows into LABELED rows, in the same order."""
        from persam_ray.detection import predict_resized

        rows, usable = _split(table, self._report)
        for photo in usable:
            started_s = time.perf_counter()
            found = predict_resized(self._model, _pixels(table, photo.index), photo.size_hw, self._limits)
            rows[photo.index] = photo.row(found)
            self._report(1, 0, {MASK_RCNN: time.perf_counter() - started_s})
        return _labeled(table, {MASK_RCNN: rows})


# --- rows ------------------------------------------------------------------------------------------------------------


_Row = dict[str, Any]
"""Of PREDICTIONS: run-length strings, no masks, of which a table of large photos would fill the memory."""


@dataclass(frozen=True)
class _Photo:
    """A row that a model can look at."""

    index: int
    image_id: str
    size_hw: tuple[int, int]
    version: str | None

    def row(self, instances: Sequence[Segmentation]) -> _Row:
        return Prediction(self.image_id, self.size_hw, None, tuple(instances), self.version).to_row()


def _split(table: pa.Table, report: Report) -> tuple[dict[int, _Row], list[_Photo]]:
    """Return the predictions of the rows that failed already, by index, and the other rows."""
    rows = table.select(["image_id", "height", "width", "error", "version"]).to_pylist()
    failed, usable = {}, []
    for index, row in enumerate(rows):
        if row["error"] is None:
            usable.append(_Photo(index, row["image_id"], (row["height"], row["width"]), row["version"]))
        else:
            size_hw = None if row["height"] is None else (row["height"], row["width"])
            failed[index] = Prediction(row["image_id"], size_hw, row["error"], version=row["version"]).to_row()
    if failed:
        report(len(failed), len(failed), {})
    return failed, usable


def _pixels(table: pa.Table, index: int) -> ByteArray:
    """Return a row's pixels (h, w, 3) as a view of the table's memory."""
    flat = np.frombuffer(table["pixels"][index].as_buffer(), dtype=np.uint8)
    return flat.reshape(table["pixels_height"][index].as_py(), table["pixels_width"][index].as_py(), 3)


def _labeled(table: pa.Table, rows: Mapping[str, Mapping[int, _Row]]) -> pa.Table:
    annotations = table["annotations"].to_pylist()
    labeled: list[_Row] = [
        by_index[index] | {"annotations": annotations[index], "method": method}
        for method, by_index in rows.items()
        for index in sorted(by_index)
    ]
    return pa.Table.from_pylist(labeled, schema=LABELED)
