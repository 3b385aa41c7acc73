"""Fitting Mask R-CNN by Ray Train: what each worker does, and the call that starts the workers.

    driver: train_detector  ->  workers: read the examples through Ray Data; for each epoch: steps, report, checkpoint

A worker or node that is lost costs the epoch it was in: all workers start again from the last checkpoint in storage.
Every worker holds all examples (10 photos: 13 MB) and takes its share of each step.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.fs
import ray
import ray.train
import ray.train.torch

from persam_ray import cluster, labeling
from persam_ray.checkpoints import DETECTOR_FILE, locate_start
from persam_ray.config import ConfigError
from persam_ray.datasets import Dataset
from persam_ray.detector_config import Objects, TrainingConfig
from persam_ray.examples import ExampleError, make_example
from persam_ray.few_shot import (
    Example,
    FewShotSettings,
    TrainingLosses,
    make_batch,
    make_optimiser,
    prepare,
    train_step,
)
from persam_ray.mask_rcnn import (
    MaskRcnn,
    StartReport,
    build_mask_rcnn,
    compute_in,
    default_backbone,
    network_dtype,
    to_checkpoint,
)
from persam_ray.precision import Precision
from persam_ray.progress import console, show_progress
from persam_ray.reading import read_rows
from persam_ray.stages import Report
from persam_ray.storage import filesystem, join, public, read_json, write_bytes, write_json

if TYPE_CHECKING:
    import torch

    from persam_ray.types import Checkpoint

HISTORY_FILE = "training.json"
CHECKPOINTS = "checkpoints"
STATE_FILE = "state.pt"
RESTARTS = 3
MAX_IMAGES = 5000
"""Every worker keeps all of them, at 1.3 MB each."""


def _say_nothing(_images: int, _failed: int, _seconds: Mapping[str, float]) -> None:
    """Report to nobody."""


class TrainingError(ValueError):
    """Training cannot start or go on; the message says why."""


@dataclass(frozen=True)
class TrainingJob:
    """What every worker is told.

    Attributes:
        backbone: One of mask_rcnn.BACKBONES.
        categories: What to find.
        objects: What an object is, as in make_example.
        settings: Of the optimiser and the augmentation.
        epoch_steps: Steps between two reports and checkpoints.
        precision: Of the network.
        threads: Of torch on the CPU.
        output: URI below which the model and its history are written.
        load_start: Returns the weights to start from, None for random ones.
        report: Where progress goes: photos, failures, seconds by step.
    """

    backbone: str
    categories: tuple[str, ...]
    objects: Objects
    settings: FewShotSettings
    epoch_steps: int
    precision: Precision
    threads: int
    output: str
    load_start: Callable[[], Checkpoint | None]
    report: Report = _say_nothing

    @property
    def epochs(self) -> int:
        """How many; the last may be shorter."""
        return -(-self.settings.steps // self.epoch_steps)


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
    history = _restore(model, optimiser, schedule)
    for epoch in range(len(history), job.epochs):
        started_s, values = time.perf_counter(), []
        for step in range(epoch * job.epoch_steps, min((epoch + 1) * job.epoch_steps, job.settings.steps)):
            batch = make_batch(examples, model.spec, job.settings, step, rank, workers)
            rate = float(schedule.get_last_lr()[0])
            values.append(train_step(losses, optimiser, schedule, batch, job.settings) | {"learning_rate": rate})
            job.report(len(batch), 0, {})
        means = {name: sum(value[name] for value in values) / len(values) for name in values[0]}
        history.append({"epoch": epoch, "steps": len(values), **means, "seconds": time.perf_counter() - started_s})
        _save_epoch(job, model, optimiser, schedule, history, is_first=rank == 0)


def _build(job: TrainingJob) -> tuple[MaskRcnn, StartReport]:
    return build_mask_rcnn(job.backbone, job.categories, job.load_start(), seed=job.settings.seed)


def _examples(job: TrainingJob) -> Iterator[Example]:
    """Read the examples through Ray Data; each worker sees all of them, in any order."""
    for table in ray.train.get_dataset_shard("train").iter_batches(batch_size=4, batch_format="pyarrow"):
        for row in table.to_pylist():
            yield make_example(row, job.categories, job.objects)


def _restore(model: MaskRcnn, optimiser: torch.optim.Optimizer, schedule: Any) -> list[dict[str, float]]:
    """Go back to the last checkpoint, if there is one, and return the history of epochs until then."""
    import torch

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return []
    with checkpoint.as_directory() as folder:
        state = torch.load(Path(folder) / STATE_FILE, map_location="cpu", weights_only=True)
    model.detector.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    schedule.load_state_dict(state["schedule"])
    history: list[dict[str, float]] = state["history"]
    return history


def _save_epoch(
    job: TrainingJob,
    model: MaskRcnn,
    optimiser: torch.optim.Optimizer,
    schedule: Any,
    history: list[dict[str, float]],
    *,
    is_first: bool,
) -> None:
    """Report the last epoch; the first worker writes a checkpoint with it, and the model after the last epoch."""
    import torch
    from safetensors.numpy import save

    if not is_first:
        ray.train.report(history[-1])
        return
    if len(history) == job.epochs:
        write_bytes(join(job.output, DETECTOR_FILE), save(*to_checkpoint(model)))
    write_json(join(job.output, HISTORY_FILE), {"settings": asdict(job.settings), "epochs": history})
    state = {
        "model": model.detector.state_dict(),
        "optimiser": optimiser.state_dict(),
        "schedule": schedule.state_dict(),
        "history": history,
    }
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder) / STATE_FILE)
        ray.train.report(history[-1], checkpoint=ray.train.Checkpoint.from_directory(folder))


# --- the driver ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fitted:
    """A trained model.

    Attributes:
        checkpoint: URI of its weights.
        start: What became of the start weights.
        epochs: Loss, learning rate and seconds of each.
        seconds: Wall-clock time of training, starting of workers and reading included.
    """

    checkpoint: str
    start: StartReport
    epochs: list[dict[str, float]]
    seconds: float


def train_detector(config: TrainingConfig, categories: tuple[str, ...], dataset: Dataset, output: str) -> Fitted:
    """Train on all images of a dataset; what can be checked is checked before any worker starts.

    Args:
        config: The user's options.
        categories: What to find.
        dataset: The training images alone.
        output: URI below which the model, its history and the checkpoints are written.

    Raises:
        ConfigError: More workers than GPUs.
        ExampleError: An image cannot be used.
        StorageError: The start weights cannot be had.
        TrainingError: There are too many images or nothing to learn, the start weights do not fit, training diverged,
            or workers were lost too often.
    """
    if (count := dataset.images) and count > MAX_IMAGES:
        raise TrainingError(f"{count} training images are too many to keep in memory; use at most {MAX_IMAGES}")
    machines = cluster.nodes()
    plan = cluster.plan_workers(machines, config.workers)
    gpus = int(sum(node.get("GPU", 0) for node in machines))
    if gpus and config.workers > gpus:
        raise ConfigError(f"--workers {config.workers}: at most one for each of the {gpus} GPUs")
    backbone = default_backbone(plan.device) if config.backbone == "auto" else config.backbone
    start_uri = locate_start(backbone, config.start)
    job = TrainingJob(
        backbone=backbone,
        categories=categories,
        objects=config.objects,
        settings=config.settings,
        epoch_steps=config.epoch_steps,
        precision=config.precision,
        threads=plan.threads,
        output=output,
        load_start=labeling.keep_checkpoint(start_uri),
    )
    start = _check_once(job, dataset, plan)
    console.print(f"Mask R-CNN ({backbone}) starts from {public(start_uri or 'random weights')}: {start}")
    started_s = time.perf_counter()
    counter = cluster.start_counter()
    photos = job.settings.steps * job.settings.photos_per_step
    with show_progress("training", photos, lambda: cluster.read_counter(counter)[:2]):
        _fit(replace(job, report=cluster.report_to(counter)), dataset, config.workers, plan)
    epochs = read_json(join(output, HISTORY_FILE))["epochs"]
    return Fitted(join(output, DETECTOR_FILE), start, epochs, time.perf_counter() - started_s)


def _check_once(job: TrainingJob, dataset: Dataset, plan: cluster.WorkerPlan) -> StartReport:
    """Read every example and build the model in a task; return what became of the start weights."""
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


def _fit(job: TrainingJob, dataset: Dataset, workers: int, plan: cluster.WorkerPlan) -> None:
    fs, path = filesystem(job.output)
    gpus = {"GPU": plan.actor_gpus} if plan.actor_gpus else {}
    trainer = ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=bool(gpus), resources_per_worker={"CPU": plan.actor_cpus, **gpus}
        ),
        run_config=ray.train.RunConfig(
            name=CHECKPOINTS,
            storage_path=path,
            storage_filesystem=pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs)),
            failure_config=ray.train.FailureConfig(max_failures=RESTARTS),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        ),
        datasets={"train": read_rows(dataset, plan)},
        dataset_config=ray.train.DataConfig(datasets_to_split=[]),  # every worker holds all examples
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise TrainingError(f"training stopped: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Return what went wrong in the worker that failed first, in one line."""
    failures = getattr(error, "worker_failures", None) or {}
    cause = next(iter(failures.values()), error)
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return lines[-1] if lines else type(cause).__name__
