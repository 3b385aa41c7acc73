"""Train Mask R-CNN by Ray Train: the function that each worker runs, and the call that starts the workers.

    driver: train_detector  ->  workers: read the examples through Ray Data; for each epoch: steps, report, checkpoint

Every worker holds all examples (10 photos: 13 MB) and takes its share of each step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import ray
import ray.train
import ray.train.torch

from persam_ray.cluster import models
from persam_ray.cluster.plan import WorkerPlan
from persam_ray.cluster.progress import counted_progress
from persam_ray.cluster.reading import read_rows
from persam_ray.compute.precision import Precision
from persam_ray.console import console
from persam_ray.data.dataset import Dataset
from persam_ray.data.storage import join, read_json, write_bytes
from persam_ray.data.weights import DETECTOR_FILE, locate_start
from persam_ray.mask_rcnn.examples import Example, prepare
from persam_ray.mask_rcnn.few_shot import TrainingLosses, make_batch, make_optimiser, train_step
from persam_ray.mask_rcnn.model import (
    MaskRcnn,
    StartReport,
    build_mask_rcnn,
    compute_in,
    default_backbone,
    network_dtype,
    to_checkpoint,
)
from persam_ray.mask_rcnn.settings import FewShotSettings
from persam_ray.options.train_mask_rcnn import TrainingConfig
from persam_ray.text import public
from persam_ray.training.epochs import HISTORY_FILE, Course, TrainingError, fit, plan_training, train_epochs
from persam_ray.training.examples import ExampleError, make_example
from persam_ray.types import Objects

if TYPE_CHECKING:
    from persam_ray.types import Checkpoint

MAX_IMAGES = 5000
"""Most training images: every worker keeps all of them in memory, at 1.3 MB each."""


@dataclass(frozen=True)
class TrainingJob:
    """The settings that every worker is given.

    Attributes:
        backbone: A key of `mask_rcnn.model.BACKBONES`.
        categories: Categories to find.
        objects: Whether a mask or each of its connected parts is an object, as in `make_example`.
        settings: Optimiser and augmentation settings.
        precision: Type that the network computes in.
        threads: Torch's threads on the CPU.
        course: How long training takes, and which files it leaves.
        load_start: Function that returns the weights to start from; None for random ones.
    """

    backbone: str
    categories: tuple[str, ...]
    objects: Objects
    settings: FewShotSettings
    precision: Precision
    threads: int
    course: Course
    load_start: Callable[[], Checkpoint | None]


# --- the worker ------------------------------------------------------------------------------------------------------


def train_worker(config: Mapping[str, Any]) -> None:
    """Train on this worker's share of each step, from the last checkpoint on; called by Ray Train."""
    import torch

    job: TrainingJob = config["job"]
    torch.set_num_threads(job.threads)
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    model = _build(job)[0]
    examples = prepare(_examples(job), model.spec, job.settings)
    compute_in(model, network_dtype(job.precision, ray.train.torch.get_device().type))
    losses = ray.train.torch.prepare_model(TrainingLosses(model))
    optimiser, schedule = make_optimiser(losses, job.settings)

    def take_step(step: int) -> tuple[dict[str, float], int]:
        batch = make_batch(examples, model.spec, job.settings, step, rank, workers)
        return train_step(losses, optimiser, schedule, batch, job.settings), len(batch)

    def save_model() -> None:
        from safetensors.numpy import save

        write_bytes(join(job.course.output, DETECTOR_FILE), save(*to_checkpoint(model)))

    train_epochs(job.course, losses, optimiser, schedule, take_step, save_model)


def _build(job: TrainingJob) -> tuple[MaskRcnn, StartReport]:
    return build_mask_rcnn(job.backbone, job.categories, job.load_start(), seed=job.settings.seed)


def _examples(job: TrainingJob) -> Iterator[Example]:
    """Read the examples through Ray Data; each worker sees all of them, in any order."""
    for table in ray.train.get_dataset_shard("train").iter_batches(batch_size=4, batch_format="pyarrow"):
        for row in table.to_pylist():
            yield make_example(row, job.categories, job.objects)


# --- the driver ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fitted:
    """A trained model.

    Attributes:
        checkpoint: URI of its weights.
        start: Which tensors the start weights filled, and which they did not.
        epochs: Loss, learning rate and seconds of each epoch.
        seconds: Wall-clock time of training in seconds, including the start of the workers and reading.
    """

    checkpoint: str
    start: StartReport
    epochs: list[dict[str, float]]
    seconds: float


def train_detector(config: TrainingConfig, categories: tuple[str, ...], dataset: Dataset, output: str) -> Fitted:
    """Train on all images of a dataset. Everything that can be checked is checked before any worker starts.

    Args:
        config: The user's options.
        categories: Categories to find.
        dataset: The training images, and no others.
        output: URI below which the model, its history and the checkpoints are written.

    Raises:
        ConfigError: More workers than GPUs.
        ExampleError: An image cannot be used.
        StorageError: The start weights do not exist or cannot be fetched.
        TrainingError: There are too many images or nothing to learn, the start weights do not fit, training diverged,
            or workers were lost too often.
    """
    if (count := dataset.images) and count > MAX_IMAGES:
        raise TrainingError(f"{count} training images are too many to keep in memory; use at most {MAX_IMAGES}")
    plan = plan_training(config.workers)
    backbone = default_backbone(plan.device) if config.backbone == "auto" else config.backbone
    start_uri = locate_start(backbone, config.start)
    job = TrainingJob(
        backbone=backbone,
        categories=categories,
        objects=config.objects,
        settings=config.settings,
        precision=config.precision,
        threads=plan.threads,
        course=Course(config.steps, config.epoch_steps, output, asdict(config.settings)),
        load_start=models.keep_checkpoint(start_uri),
    )
    start = _check_once(job, dataset, plan)
    console.print(f"Mask R-CNN ({backbone}) starts from {public(start_uri or 'random weights')}: {start}")
    started_s = time.perf_counter()
    photos = job.settings.steps * job.settings.photos_per_step
    with counted_progress("training", photos) as report:
        job = replace(job, course=replace(job.course, report=report))
        fit(train_worker, {"job": job}, output, config.workers, plan, {"train": read_rows(dataset, plan)})
    epochs = read_json(join(output, HISTORY_FILE))["epochs"]
    return Fitted(join(output, DETECTOR_FILE), start, epochs, time.perf_counter() - started_s)


def _check_once(job: TrainingJob, dataset: Dataset, plan: WorkerPlan) -> StartReport:
    """Read every example and build the model in a task; return which tensors the start weights filled."""
    task = ray.remote(num_cpus=plan.task_cpus)(_check)
    report: StartReport = ray.get(task.remote(job, dataset))
    return report


def _check(job: TrainingJob, dataset: Dataset) -> StartReport:
    rows = (row for shard in dataset.shards for table in shard.read() for row in table.to_pylist())
    try:
        model, report = _build(job)
        prepare((make_example(row, job.categories, job.objects) for row in rows), model.spec, job.settings)
    except ExampleError:
        raise
    except ValueError as error:
        raise TrainingError(f"Mask R-CNN cannot be trained on {dataset.uri}: {error}") from error
    return report
