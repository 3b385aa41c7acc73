"""Training by Ray Train, for any model: epochs, checkpoints in storage, one history, lost workers.

A worker or node that is lost costs the epoch it was in: all workers start again from the last checkpoint in storage.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.fs
import ray.train
import ray.train.torch

from persam_ray.cluster.plan import WorkerPlan, nodes, plan_workers
from persam_ray.data.storage import filesystem, join, write_json
from persam_ray.errors import ConfigError, PersamRayError
from persam_ray.stages.progress import Report, nowhere

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

HISTORY_FILE = "training.json"
CHECKPOINTS = "checkpoints"
STATE_FILE = "state.pt"
RESTARTS = 3

Epoch = dict[str, float]


class TrainingError(PersamRayError, ValueError):
    """Training cannot start or go on; the message says why."""


@dataclass(frozen=True)
class Course:
    """How long training takes, and which files it leaves.

    Attributes:
        steps: Optimiser steps.
        epoch_steps: Steps between two reports and checkpoints.
        output: URI below which the model and its history are written.
        settings: Settings of the training, for the history.
        report: Function that progress is reported to, as photos and failures.
    """

    steps: int
    epoch_steps: int
    output: str
    settings: Mapping[str, Any]
    report: Report = nowhere

    @property
    def epochs(self) -> int:
        """Number of epochs; the last may be shorter."""
        return -(-self.steps // self.epoch_steps)

    def steps_of(self, epoch: int) -> range:
        """Return the steps of an epoch."""
        return range(epoch * self.epoch_steps, min((epoch + 1) * self.epoch_steps, self.steps))


# --- the worker ------------------------------------------------------------------------------------------------------


def train_epochs(
    course: Course,
    model: nn.Module,
    optimiser: Optimizer,
    schedule: Any,
    take_step: Callable[[int], tuple[dict[str, float], int]],
    save_model: Callable[[], None],
) -> None:
    """Train on this worker's share of each step, from the last checkpoint on.

    Args:
        course: How long training takes, and which files it leaves.
        model: As `ray.train.torch.prepare_model` returned it.
        optimiser: Updates the model's weights.
        schedule: Sets the learning rate of each step.
        take_step: Takes the step with a given number; returns losses by name, and the number of this worker's photos.
        save_model: Writes the trained weights; called once, by the first worker, after the last epoch.

    Raises:
        TrainingError: The last checkpoint is damaged.
    """
    is_first = ray.train.get_context().get_world_rank() == 0
    own = getattr(model, "module", model)  # DistributedDataParallel wraps the model
    history = _restore(own, optimiser, schedule)
    for epoch in range(len(history), course.epochs):
        started_s, values = time.perf_counter(), []
        for step in course.steps_of(epoch):
            rate = float(schedule.get_last_lr()[0])
            losses, photos = take_step(step)
            values.append(losses | {"learning_rate": rate})
            course.report(photos, 0)
        history.append(
            {"epoch": epoch, "steps": len(values), **_means(values), "seconds": time.perf_counter() - started_s}
        )
        if not is_first:
            ray.train.report(history[-1])
            continue
        if len(history) == course.epochs:
            save_model()
        write_json(join(course.output, HISTORY_FILE), {"settings": course.settings, "epochs": history})
        _report_checkpoint(own, optimiser, schedule, history)


def _means(values: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each number, over the steps that have it."""
    names = {name: None for value in values for name in value}
    found = {name: [value[name] for value in values if name in value] for name in names}
    return {name: sum(numbers) / len(numbers) for name, numbers in found.items()}


def _restore(model: nn.Module, optimiser: Optimizer, schedule: Any) -> list[Epoch]:
    """Load the last checkpoint, if there is one, and return the history of the epochs until then."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return []
    with checkpoint.as_directory() as folder:
        state = read_state(Path(folder))
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    schedule.load_state_dict(state["schedule"])
    history: list[Epoch] = state["history"]
    return history


def read_state(folder: Path) -> dict[str, Any]:
    """Return the state that `_report_checkpoint` left in a folder, without running code from it.

    Raises:
        TrainingError: The file is damaged, or holds more than tensors and numbers.
    """
    import torch

    try:
        state: dict[str, Any] = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types, and recommends weights_only=False
        raise TrainingError(f"the last checkpoint's {STATE_FILE} is damaged or none of ours, and is refused") from error
    return state


def _report_checkpoint(model: nn.Module, optimiser: Optimizer, schedule: Any, history: list[Epoch]) -> None:
    import torch

    state = {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "schedule": schedule.state_dict(),
        "history": history,
    }
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder) / STATE_FILE)
        ray.train.report(history[-1], checkpoint=ray.train.Checkpoint.from_directory(folder))


# --- the driver ------------------------------------------------------------------------------------------------------


def plan_training(workers: int) -> WorkerPlan:
    """Share the cluster's resources among a number of training workers.

    Raises:
        ConfigError: More workers than GPUs.
    """
    machines = nodes()
    gpus = int(sum(node.get("GPU", 0) for node in machines))
    if gpus and workers > gpus:
        raise ConfigError(f"--workers {workers}: at most one for each of the {gpus} GPUs")
    return plan_workers(machines, workers)


def fit(
    worker: Callable[[Mapping[str, Any]], None],
    told: Mapping[str, Any],
    output: str,
    workers: int,
    plan: WorkerPlan,
    datasets: Mapping[str, ray.data.Dataset] | None = None,
) -> None:
    """Run a function on all workers, and wait until it has ended on each of them.

    Args:
        worker: The function that each worker runs on `told`.
        told: The function's argument; it is pickled and sent to the workers.
        output: URI below which checkpoints are kept.
        workers: Number of workers.
        plan: Resources of each worker.
        datasets: Datasets by name; every worker reads all rows of each.

    Raises:
        TrainingError: Training diverged, or workers were lost too often.
    """
    fs, path = filesystem(output)
    gpus = {"GPU": plan.actor_gpus} if plan.actor_gpus else {}
    trainer = ray.train.torch.TorchTrainer(
        worker,
        train_loop_config=dict(told),
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
        datasets=dict(datasets or {}),
        dataset_config=ray.train.DataConfig(datasets_to_split=[]),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise TrainingError(f"training stopped: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Return the error of the worker that failed first, in one line."""
    failures = getattr(error, "worker_failures", None) or {}
    cause = next(iter(failures.values()), error)
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return lines[-1] if lines else type(cause).__name__
