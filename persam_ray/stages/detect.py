"""The stage that holds a trained Mask R-CNN: PIXELS rows in, LABELED rows out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from persam_ray.data.schema import instance_row
from persam_ray.methods.registry import MASK_RCNN
from persam_ray.stages.progress import Report
from persam_ray.stages.rows import TableLabels

if TYPE_CHECKING:
    from persam_ray.compute.precision import Precision
    from persam_ray.types import Checkpoint, DetectionLimits


@dataclass(frozen=True)
class DetectOptions:
    """How to find instances with Mask R-CNN.

    Attributes:
        device: `cuda` or `cpu`.
        threads: Torch's threads on the CPU.
        precision: Type that the network computes in.
        limits: Which instances are kept.
    """

    device: str
    threads: int
    precision: Precision
    limits: DetectionLimits


class SegmentWithMaskRcnn:
    """Finds instances with a trained Mask R-CNN, one photo at a time.

    Args:
        load: Function that returns the checkpoint.
        options: How to find instances.
        report: Function that progress is reported to.
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

        labels = TableLabels(table, [MASK_RCNN])
        labels.report_failed(self._report)
        for photo in labels.photos:
            started_s = time.perf_counter()
            found = predict_resized(self._model, photo.pixels_hw3, photo.size_hw, self._limits)
            labels.add(MASK_RCNN, photo, map(instance_row, found))
            labels.spend(MASK_RCNN, [photo], time.perf_counter() - started_s)
            self._report(1, 0)
        return labels.to_table()
