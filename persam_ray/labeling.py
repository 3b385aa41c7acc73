"""A model on its actors, and a pass of all images through it: what every labeling job does.

    checkpoint, ... = load_checkpoint(uri)            read once, into the object store, which all actors share
    labeler = persam_labeler(checkpoint, targets, ...)
    labeled = label_images(rows, images, labeler, runs, plan)

The driver sees counts and summaries: no pixels, masks or weights.
"""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import ray
import ray.data
from ray.data import ActorPoolStrategy

from persam_ray import cluster, run_directory
from persam_ray.cluster import WorkerPlan
from persam_ray.command_line import error_line
from persam_ray.datasets import Dataset
from persam_ray.feature_cache import COUNTED, CacheUse, FeatureCache
from persam_ray.images import resize_longest_side, resize_to_fit
from persam_ray.model_stages import (
    DetectOptions,
    SegmentOptions,
    SegmentStage,
    SegmentWithMaskRcnn,
    SegmentWithPersam,
    load_sam,
    on_device,
)
from persam_ray.parts import Counts
from persam_ray.progress import console, show_progress
from persam_ray.report import write_contact_sheet
from persam_ray.run_directory import Outcome
from persam_ray.stages import DecodeImages, Run, WritePredictions

if TYPE_CHECKING:
    from persam_ray.evaluation_merge import Metrics
    from persam_ray.persam import Guidance
    from persam_ray.precision import Precision
    from persam_ray.types import ByteArray, Checkpoint, Reference, Target

ROWS_PER_CALL = 16
CALLS_PER_ACTOR = 8  # at least, of small runs, so that the actors end together
CALLS_IN_FLIGHT = 2  # of an actor: one that it works on, one that waits for it; more would be kept from the others
LEAST_ROWS_PER_FILE, ROWS_PER_FILE = 16, 1024  # of runs of up to 16,000 photos, and from a million on


@dataclass(frozen=True)
class Labeler:
    """What it takes to start actors with a model.

    Attributes:
        stage: Made with `load`, `options` and where to report to.
        load: Returns what the model is made of, in the actor.
        options: How the model works.
        resize: Makes a photo as large as the model takes it.
        batch_size: Photos that the model takes at once.
    """

    stage: type[SegmentStage]
    load: Callable[[], Any]
    options: SegmentOptions | DetectOptions
    resize: Callable[[ByteArray], ByteArray]
    batch_size: int = 1


@dataclass(frozen=True)
class Labeled:
    """A pass of all images.

    Attributes:
        outcomes: What each run came to, by its name.
        wall_s: Seconds that the pass took.
        busy_s: Seconds that workers were busy, in sum, by step: `decode` (the reading not counted), `encode`, each
            method by its name, `write`; beside them what the feature cache counts.
    """

    outcomes: Mapping[str, Outcome]
    wall_s: float
    busy_s: Mapping[str, float]

    @classmethod
    def nothing(cls, runs: Iterable[str]) -> Labeled:
        """Return what a pass of no images comes to."""
        return cls({name: Outcome(Counts(), ()) for name in runs}, 0.0, {})

    @property
    def seconds(self) -> dict[str, float]:
        """The times by step, for a manifest."""
        steps = {step: spent_s for step, spent_s in self.busy_s.items() if not step.startswith(COUNTED)}
        return {"label": self.wall_s, **{f"busy_{step}": spent_s for step, spent_s in steps.items()}}

    @property
    def cache_use(self) -> CacheUse:
        """What came of the feature cache."""
        return CacheUse.of(self.busy_s)


def label_images(
    rows: ray.data.Dataset,
    images: int,
    labeler: Labeler,
    runs: Mapping[str, Run],
    plan: WorkerPlan,
    reference_ids: frozenset[str] = frozenset(),
    watch: Callable[[Counts], None] = lambda _counts: None,
) -> Labeled:
    """Label all images, writing each run's directory but for its metrics and manifest.

    Args:
        rows: READ rows.
        images: How many there are.
        labeler: The model.
        runs: What is written, by name; several may take one method's rows.
        plan: How to share out the cluster.
        reference_ids: Images whose masks the model has seen: they are labeled, but not judged.
        watch: Called with what each run has come to, as its files are written; what it raises ends the pass.

    Raises:
        OutputError: Fewer or more rows came out of a run than images went in.
    """
    started_s = time.perf_counter()
    counter = cluster.start_counter()
    report = cluster.report_to(counter)
    decode, write = DecodeImages(labeler.resize, report), WritePredictions(runs, reference_ids, report)
    with show_progress("labeling", images, lambda: cluster.read_counter(counter)[:2]):
        summaries = _chain(rows, images, decode, labeler, write, plan, report)
        outcomes = run_directory.add_up(_watched(summaries.iter_rows(), watch))
    for name in runs:
        run_directory.check_complete(outcomes[name].counts, images)
    return Labeled(outcomes, time.perf_counter() - started_s, cluster.read_counter(counter)[2])


def _chain(
    rows: ray.data.Dataset,
    images: int,
    decode: DecodeImages,
    labeler: Labeler,
    write: WritePredictions,
    plan: WorkerPlan,
    report: Any,
) -> ray.data.Dataset:
    """Lay out the way of the data: rows -> pixels -> predictions -> files, of which summaries come back."""
    tasks: dict[str, Any] = {"batch_format": "pyarrow", "num_cpus": plan.task_cpus}
    rows_per_call = _rows_per_call(images, plan.actors, labeler.batch_size)
    summaries: ray.data.Dataset = (
        rows.map_batches(decode, batch_size=rows_per_call, **tasks)
        .map_batches(
            labeler.stage,
            fn_constructor_args=(labeler.load, labeler.options, report),
            compute=ActorPoolStrategy(size=plan.actors, max_tasks_in_flight_per_actor=CALLS_IN_FLIGHT),
            batch_size=rows_per_call,
            batch_format="pyarrow",
            num_cpus=plan.actor_cpus,
            num_gpus=plan.actor_gpus,
        )
        .map_batches(write, batch_size=_rows_per_file(images), **tasks)
    )
    return summaries


def _watched(summaries: Iterable[dict[str, Any]], watch: Callable[[Counts], None]) -> Iterator[dict[str, Any]]:
    """Pass the writers' summaries on."""
    sums: dict[str, Counts] = defaultdict(Counts)
    for row in summaries:
        sums[row["run"]] += Counts.from_json(row["counts"])
        watch(sums[row["run"]])
        yield row


def _rows_per_file(images: int) -> int:
    """Return how many rows go into one file: those that wait for it are labeled again if the job is killed."""
    return min(ROWS_PER_FILE, max(LEAST_ROWS_PER_FILE, images // 1000))


def _rows_per_call(images: int, actors: int, batch_size: int) -> int:
    """Return how many rows the model's stage takes at once: few of a small run, so that every actor gets its part."""
    rows = min(ROWS_PER_CALL, max(1, images // (actors * CALLS_PER_ACTOR)))
    return math.ceil(rows / batch_size) * batch_size


def write_sheet(dataset: Dataset, run: Run, outcome: Outcome, metrics: Metrics | None, plan: WorkerPlan) -> None:
    """Write a run's contact sheet in a task; what goes wrong there is said, and costs nothing else."""
    facts = (run.judge.categories, vars(outcome.counts), metrics, run.judge.score_threshold)
    try:
        cluster.in_task(plan, write_contact_sheet, run.folder, dataset, *facts)
    except Exception as error:
        console.print(f"the contact sheet could not be written: {error_line(cluster.cause_of(error))}")


# --- SAM -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadedSam:
    """A SAM checkpoint in the object store.

    Attributes:
        checkpoint: Its reference.
        fingerprint: `sha256:...` of the file.
        image_size_px: Side of the model's input.
    """

    checkpoint: ray.ObjectRef[Checkpoint]
    fingerprint: str
    image_size_px: int


def load_checkpoint(uri: str) -> LoadedSam:
    """Read a SAM checkpoint into the object store, where all actors share its memory.

    It is read on this node, where `checkpoints.locate` has put it, but not by the driver.

    Raises:
        CheckpointError: Its layout is unknown.
    """
    checkpoint, facts = _read_once(_read_sam, uri)
    return LoadedSam(checkpoint, *facts)


def _read_once(read: Callable[..., Any], uri: str) -> tuple[ray.ObjectRef[Any], Any]:
    """Read a file in a task that returns two things: one stays in the object store, the other comes here."""
    strategy = cluster.on_this_node(soft=True)
    task = ray.remote(read).options(num_cpus=0, num_returns=2, scheduling_strategy=strategy)
    content, facts = cast("Any", task.remote(uri))  # two references, as asked for
    return content, ray.get(facts)


def _read_sam(uri: str) -> tuple[Checkpoint, tuple[str, int]]:
    from persam_ray.checkpoints import read_checkpoint
    from persam_ray.sam_build import build_modules
    from persam_ray.types import CheckpointError

    checkpoint = read_checkpoint(uri)
    try:
        modules = build_modules(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{uri}: {error}") from error
    return checkpoint, (checkpoint.fingerprint, modules.image_size_px)


def sam_options(
    plan: WorkerPlan,
    precision: Precision,
    guidance: Guidance,
    batch_size: int | None = None,
    cache: FeatureCache | None = None,
) -> SegmentOptions:
    """Combine what the user asked for with what the cluster has."""
    batch_size = batch_size or (8 if plan.device == "cuda" else 1)
    share = cache.share(plan.actors) if cache else None
    return SegmentOptions(plan.device, plan.threads, batch_size, precision, guidance, share)


def make_targets(
    sam: LoadedSam,
    references: Mapping[str, Sequence[Reference]],
    options: SegmentOptions,
    method: str,
    plan: WorkerPlan,
) -> tuple[ray.ObjectRef[list[Target]], float]:
    """Make a method's targets on one worker with the actors' hardware; they stay in the object store.

    Returns:
        Their reference, and the seconds that making them took, the model being loaded: what PerSAM-F calls training.
    """
    make = ray.remote(_make_targets).options(num_cpus=plan.actor_cpus, num_gpus=plan.actor_gpus, num_returns=2)
    targets, seconds = cast("Any", make.remote(sam.checkpoint, references, options, method))  # two references
    return targets, ray.get(seconds)  # raises what went wrong, here and now


def _make_targets(
    checkpoint: Checkpoint, references: Mapping[str, Sequence[Reference]], options: SegmentOptions, method: str
) -> tuple[list[Target], float]:
    from persam_ray.persam import ReferenceEncoder, make_target
    from persam_ray.persam_f import make_target_f

    # Once for the run, so by all of this machine. A fit at full precision: a rounded point on the reference would move
    # the mask weights, and with them every mask.
    precision = "float32" if method == "persam_f" else options.precision
    sam = load_sam(checkpoint, replace(options, precision=precision, threads=len(os.sched_getaffinity(0))))
    started_s = time.perf_counter()
    make = {"persam": make_target, "persam_f": make_target_f}[method]
    encode = ReferenceEncoder(sam, [example for examples in references.values() for example in examples])
    targets = [on_device(make(sam, examples, encode), "cpu") for examples in references.values()]
    return targets, time.perf_counter() - started_s


def persam_labeler(
    sam: LoadedSam, targets: Mapping[str, ray.ObjectRef[list[Target]]], options: SegmentOptions
) -> Labeler:
    """Return a labeler that encodes each image once for all methods in `targets`."""
    load = partial(_fetch_sam, sam.checkpoint, dict(targets))
    resize = partial(resize_longest_side, image_size_px=sam.image_size_px)
    return Labeler(SegmentWithPersam, load, options, resize, options.batch_size)


def _fetch_sam(
    checkpoint: ray.ObjectRef[Checkpoint], targets: Mapping[str, ray.ObjectRef[list[Target]]]
) -> tuple[Checkpoint, dict[str, list[Target]]]:
    return ray.get(checkpoint), {method: ray.get(reference) for method, reference in targets.items()}


# --- Mask R-CNN ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadedDetector:
    """A trained Mask R-CNN in the object store.

    Attributes:
        checkpoint: Its reference.
        fingerprint: `sha256:...` of the file.
        categories: What it finds.
        frame_px: Shorter and longer side that photos are resized to.
    """

    checkpoint: ray.ObjectRef[Checkpoint]
    fingerprint: str
    categories: tuple[str, ...]
    frame_px: tuple[int, int]


def load_detector(uri: str) -> LoadedDetector:
    """Read a trained Mask R-CNN into the object store.

    Raises:
        CheckpointError: It is none of ours, or damaged.
    """
    checkpoint, facts = _read_once(_read_detector, uri)
    return LoadedDetector(checkpoint, *facts)


def _read_detector(uri: str) -> tuple[Checkpoint, tuple[str, tuple[str, ...], tuple[int, int]]]:
    from persam_ray.checkpoints import read_checkpoint
    from persam_ray.mask_rcnn import from_checkpoint
    from persam_ray.types import CheckpointError

    checkpoint = read_checkpoint(uri)
    try:
        spec = from_checkpoint(checkpoint.tensors, checkpoint.metadata).spec
    except ValueError as error:
        raise CheckpointError(f"{uri}: {error}") from error
    return checkpoint, (checkpoint.fingerprint, spec.categories, spec.frame_px)


def keep_checkpoint(uri: str | None) -> Callable[[], Checkpoint | None]:
    """Read any checkpoint into the object store, and return what fetches it in a worker; of None it fetches None.

    Raises:
        CheckpointError: It cannot be read.
    """
    if uri is None:
        return _nothing
    reference, _ = _read_once(_read_any, uri)
    return partial(_fetch, reference)


def _read_any(uri: str) -> tuple[Checkpoint, str]:
    from persam_ray.checkpoints import read_checkpoint

    checkpoint = read_checkpoint(uri)
    return checkpoint, checkpoint.fingerprint


def _nothing() -> None:
    return None


def _fetch(reference: ray.ObjectRef[Checkpoint]) -> Checkpoint:
    return ray.get(reference)


def mask_rcnn_labeler(detector: LoadedDetector, options: DetectOptions) -> Labeler:
    """Return a labeler that finds instances by a trained Mask R-CNN."""
    shorter_px, longer_px = detector.frame_px
    resize = partial(resize_to_fit, shorter_px=shorter_px, longer_px=longer_px)
    return Labeler(SegmentWithMaskRcnn, partial(_fetch, detector.checkpoint), options, resize)
