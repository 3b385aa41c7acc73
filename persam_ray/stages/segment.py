"""The stage that holds SAM: PIXELS rows in, LABELED rows out, one for each photo and method. It does not use Ray.

A photo's pixels end here; a few KB of run-length strings go on. One SAM serves several methods and categories: it
encodes each photo once, or reads its features from a cache.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pyarrow as pa

from persam_ray.compute.host_memory import keep_freed_memory
from persam_ray.data.schema import instance_row
from persam_ray.methods.registry import MethodName, make_method
from persam_ray.stages.cached_encoder import CachedEncoder
from persam_ray.stages.progress import Report
from persam_ray.stages.rows import DecodedPhoto, TableLabels
from persam_ray.stages.targets import SegmentOptions, load_sam
from persam_ray.types import EncodedPhotos

if TYPE_CHECKING:
    import torch

    from persam_ray.methods.answers import PendingInstances
    from persam_ray.methods.registry import Method
    from persam_ray.sam.model import Sam
    from persam_ray.types import Checkpoint, Target


ItemT = TypeVar("ItemT")

PROMPTS_AT_ONCE = 16
"""Prompts that are decoded together, over all photos and targets of a batch: about 25 MB each at 1024 pixels."""


class SegmentStage(Protocol):
    """A stage that holds a model: an actor applies it to one table after the other."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """Turn PIXELS rows into LABELED rows."""
        ...


class SegmentWithSam:
    """Segments photos by SAM: each is encoded once, then every method and category is decoded from its features.

    The stage can be made before the targets are. Its first call waits for them, and raises the error if making them
    failed.

    Args:
        load: Function that returns the checkpoint, and the targets of each method by its name (from the object store,
            where all actors share them).
        options: How to segment.
        report: Function that progress is reported to.
    """

    _sam: Sam
    _targets: Mapping[MethodName, Sequence[Target]]
    _methods: Mapping[MethodName, Method]
    _batch_size: int
    _cached: CachedEncoder | None = None

    def __init__(
        self,
        load: Callable[[], tuple[Checkpoint, Mapping[MethodName, Sequence[Target]]]],
        options: SegmentOptions,
        report: Report,
    ) -> None:
        keep_freed_memory()
        from persam_ray.sam import model  # noqa: F401 - torch takes seconds to load: use the time of making the targets

        self._load: Callable[[], tuple[Checkpoint, Mapping[MethodName, Sequence[Target]]]] | None = load
        self._options = options
        self._report = report

    def __call__(self, table: pa.Table) -> pa.Table:
        """Turn PIXELS rows into LABELED rows, in the same order within each method."""
        self._begin()
        labels = TableLabels(table, self._targets)
        labels.report_failed(self._report)
        for question in _ahead(self._questions(labels), self._questions_ahead):
            started_s = time.perf_counter()
            for photo, instances in zip(question.photos, question.answered(), strict=True):
                labels.add(question.method, photo, instances)
            seconds = question.seconds + time.perf_counter() - started_s
            labels.spend(question.method, question.photos, seconds, [question.method])
            if question.is_last:
                self._report(len(question.photos), 0)
        return labels.to_table()

    def _begin(self) -> None:
        """Wait for the targets and build SAM, at the first call."""
        if self._load is None:
            return
        checkpoint, targets = self._load()
        self._sam = load_sam(checkpoint, self._options)
        self._batch_size = self._options.batch_size
        if self._options.fits_memory:
            from persam_ray.sam.memory import images_that_fit

            self._batch_size = images_that_fit(self._sam, self._batch_size)
        self._targets = {name: [target.to(self._sam.device) for target in own] for name, own in targets.items()}
        self._methods = {name: make_method(name, self._options.guidance) for name in targets}
        if self._options.cache is not None:
            self._cached = CachedEncoder(self._sam, checkpoint.fingerprint, self._options.cache)
        self._load = None

    def _encoded(self, labels: TableLabels) -> Iterator[tuple[Sequence[DecodedPhoto], torch.Tensor]]:
        """Yield each batch of photos and their features (b, c, h, w); after the last, the cache has all new ones."""
        photos = labels.photos
        asked = self._cached.ask([photo.pixels_hw3 for photo in photos]) if self._cached else []
        for start in range(0, len(photos), self._batch_size):
            batch = photos[start : start + self._batch_size]
            pixels = [photo.pixels_hw3 for photo in batch]
            started_s = time.perf_counter()
            if self._cached:
                features_bchw = self._cached.encode(pixels, asked[start : start + len(batch)])
            else:
                features_bchw = self._sam.encode(pixels)
            if self._sam.device.type == "cuda" and len(self._targets) > 1:
                self._wait()  # else the encoder's time would count as the first method's
            labels.spend("encode", batch, time.perf_counter() - started_s)
            yield batch, features_bchw
        if self._cached and photos:
            started_s = time.perf_counter()
            for photo, (outcome, failure) in zip(photos, self._cached.settle(), strict=True):
                labels.looked_up(photo, outcome, failure)
            labels.spend("encode", photos, time.perf_counter() - started_s)

    @property
    def _questions_ahead(self) -> int:
        """Number of questions asked ahead of the one being answered: a GPU works on it while masks are made RLE.

        It is 0 if the seconds of several methods are told apart or there is a feature cache, because both wait for the
        GPU; and on a CPU.
        """
        return int(self._sam.device.type == "cuda" and len(self._targets) == 1 and self._cached is None)

    def _questions(self, labels: TableLabels) -> Iterator[_Question]:
        """Ask for the targets in each batch of photos: method by method, some targets at a time."""
        for batch, features_bchw in self._encoded(labels):
            encoded = EncodedPhotos(features_bchw, [self._sam.frame(photo.size_hw) for photo in batch])
            at_once = max(1, PROMPTS_AT_ONCE // len(batch))
            parts = [
                (name, targets[start : start + at_once])
                for name, targets in self._targets.items()
                for start in range(0, len(targets), at_once)
            ]
            for number, (name, some) in enumerate(parts, start=1):
                started_s = time.perf_counter()
                instances = self._methods[name].segment(self._sam, encoded, some)
                seconds = time.perf_counter() - started_s
                yield _Question(batch, name, instances, seconds, is_last=number == len(parts))

    def _wait(self) -> None:
        import torch

        torch.cuda.synchronize(self._sam.device)


@dataclass(frozen=True)
class _Question:
    """Some targets of one method, asked for in a batch of photos.

    Attributes:
        photos: The batch.
        method: Name of the method.
        instances: The answers, on their way from the device.
        seconds: Time that asking took.
        is_last: Whether it is the batch's last question.
    """

    photos: Sequence[DecodedPhoto]
    method: MethodName
    instances: PendingInstances
    seconds: float
    is_last: bool

    def answered(self) -> list[list[dict[str, Any]]]:
        """Wait for the answers; return each photo's instances in the order of the targets, as INSTANCE values."""
        return [list(map(instance_row, found)) for found in self.instances.wait()]


def _ahead(items: Iterator[ItemT], count: int) -> Iterator[ItemT]:
    """Yield items in their order, each after `count` further items have been made."""
    made: deque[ItemT] = deque()
    for item in items:
        made.append(item)
        if len(made) > count:
            yield made.popleft()
    yield from made
