"""TODO stages.detect."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from persam_ray.stages.progress import Report
from persam_ray.stages.rows import labeled, pixels_of, split

if TYPE_CHECKING:
    from persam_ray.compute.precision import Precision
    from persam_ray.types import Checkpoint, DetectionLimits


MASK_RCNN = "mask_rcnn"


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
        import torch

        from persam_ray.mask_rcnn.model import compute_in, from_checkpoint, network_dtype

        torch.set_num_threads(options.threads)
        checkpoint = load()
        self._model = from_checkpoint(checkpoint.tensors, checkpoint.metadata)
        self._model.detector.to(options.device)
        compute_in(self._model, network_dtype(options.precision, options.device))
        self._limits = options.limits
        self._report = report

    def __call__(self, table: pa.Table) -> pa.Table:
        """Turn PIXELS rows into LABELED rows, in the same order."""
        from persam_ray.mask_rcnn.prediction import predict_resized

        rows, usable = split(table, self._report)
        for photo in usable:
            started_s = time.perf_counter()
            found = predict_resized(self._model, pixels_of(table, photo.index), photo.size_hw, self._limits)
            rows[photo.index] = photo.row(found)
            self._report(1, 0, {MASK_RCNN: time.perf_counter() - started_s})
        return labeled(table, {MASK_RCNN: rows})
