"""Train the demo's compact SAM by Ray Train: tasks draw scenes, every worker reads them and learns from them.

    driver: train_sam  ->  tasks: draw scenes into Parquet  ->  workers: read them; for each epoch: steps, checkpoint

Every worker holds both views of all scenes, packed (4,500 scenes: 0.34 GB), and takes its share of each step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.train
import ray.train.torch

from persam_ray.cluster.plan import WorkerPlan, in_task
from persam_ray.cluster.progress import counted_progress
from persam_ray.compute.host_memory import keep_freed_memory
from persam_ray.data.checkpoints import read_checkpoint
from persam_ray.data.storage import exists, filesystem, join, list_files, read_json, write_bytes, write_parquet
from persam_ray.data.weights import locate
from persam_ray.errors import CheckpointError
from persam_ray.text import public
from persam_ray.training.epochs import HISTORY_FILE, Course, Epoch, TrainingError, fit, plan_training, train_epochs

if TYPE_CHECKING:
    from persam_ray.compact_sam.network import CompactSam
    from persam_ray.compact_sam.packed_scenes import PackedScene
    from persam_ray.compact_sam.training import SamTrainingSettings
    from persam_ray.options.train_sam import TrainSamConfig

SAM_FILE = "compact_sam.safetensors"
"""Name of the trained model's file below the output."""

SCENES = "scenes"
SCENES_PER_FILE = 50
SCENE = pa.schema(
    [
        ("seed", pa.int64()),
        ("view", pa.int8()),
        ("jpeg", pa.binary()),
        ("object_map", pa.binary()),
        ("groups", pa.list_(pa.int16())),
    ]
)


@dataclass(frozen=True)
class SamTrainingJob:
    """The settings that every worker is given.

    Attributes:
        backbone: Name of a timm model.
        start: URI of weights to start from; None for random ones.
        image_size: Side of the model's input in pixels.
        settings: Sample and optimiser settings.
        precision: Name of the torch type that the network computes in.
        threads: Torch's threads on the CPU.
        course: How long training takes, and which files it leaves.
    """

    backbone: str
    start: str | None
    image_size: int
    settings: SamTrainingSettings
    precision: str
    threads: int
    course: Course


# --- scenes ----------------------------------------------------------------------------------------------------------


def draw_scenes(output: str, seeds: range, plan: WorkerPlan) -> None:
    """Draw scenes into files below the output, in tasks; files that exist are kept."""
    parts = [seeds[start : start + SCENES_PER_FILE] for start in range(0, len(seeds), SCENES_PER_FILE)]
    draw = ray.remote(num_cpus=plan.task_cpus)(_draw)
    with counted_progress("drawing scenes", len(seeds)) as report:
        ray.get([draw.remote(output, part, report) for part in parts])


def _draw(output: str, seeds: range, report: Any) -> None:
    from persam_ray.compact_sam.packed_scenes import draw_views, pack

    uri = join(output, SCENES, f"part-{seeds[0]:016x}.parquet")
    if not exists(uri):
        rows = []
        for seed in seeds:
            for view, drawn in enumerate(draw_views(seed)):
                scene = pack(drawn)
                files = {"jpeg": scene.jpeg, "object_map": scene.object_map_png, "groups": scene.object_groups}
                rows.append({"seed": seed, "view": view, **files})
        write_parquet(uri, pa.Table.from_pylist(rows, SCENE))
    report(len(seeds), 0)


def read_scenes(output: str) -> list[tuple[PackedScene, PackedScene]]:
    """Return both views of all scenes below an output, by seed.

    Raises:
        TrainingError: Views are missing: an earlier version drew them.
    """
    from persam_ray.compact_sam.packed_scenes import PackedScene

    def rows() -> Iterator[dict[str, Any]]:
        for name in list_files(join(output, SCENES)):
            fs, path = filesystem(join(output, SCENES, name))
            with fs.open(path, "rb") as file:
                yield from pq.read_table(file, schema=SCENE).to_pylist()

    ordered = sorted(rows(), key=lambda row: (row["seed"], row["view"] or 0))
    pairs = list(zip(ordered[::2], ordered[1::2], strict=False))
    if len(ordered) % 2 or any((a["seed"], a["view"], b["view"]) != (b["seed"], 0, 1) for a, b in pairs):
        raise TrainingError(f"not every scene below {join(output, SCENES)} has two views: draw them anew (--overwrite)")
    views = [PackedScene(row["jpeg"], row["object_map"], tuple(row["groups"])) for row in ordered]
    return list(zip(views[::2], views[1::2], strict=True))


# --- the worker ------------------------------------------------------------------------------------------------------


def train_worker(config: Mapping[str, Any]) -> None:
    """Train on this worker's share of each step, from the last checkpoint on; called by Ray Train."""
    import torch

    from persam_ray.compact_sam.training import TrainingLosses, make_batch, make_optimiser, train_step

    job: SamTrainingJob = config["job"]
    torch.set_num_threads(job.threads)
    keep_freed_memory()
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    scenes = read_scenes(job.course.output)
    sam = _build(job).to(memory_format=torch.channels_last)
    losses = ray.train.torch.prepare_model(
        TrainingLosses(sam, job.settings.corrected, getattr(torch, job.precision)),
        parallel_strategy_kwargs={"find_unused_parameters": True},  # at first the encoder learns alone
    )
    optimiser, schedule = make_optimiser(losses, job.settings)

    def take_step(step: int) -> tuple[dict[str, float], int]:
        batch = make_batch(scenes, job.settings, step, rank, workers)
        return train_step(losses, optimiser, schedule, batch, job.settings), len(batch)

    def save_model() -> None:
        from safetensors.numpy import save

        from persam_ray.compact_sam.network import to_compact_checkpoint

        write_bytes(join(job.course.output, SAM_FILE), save(*to_compact_checkpoint(sam)))

    train_epochs(job.course, losses, optimiser, schedule, take_step, save_model)


def _build(job: SamTrainingJob) -> CompactSam:
    from persam_ray.compact_sam.network import load_weights, new_compact_sam

    sam = new_compact_sam(job.backbone, job.image_size, job.settings.seed)
    if job.start is not None:
        load_weights(sam, read_checkpoint(job.start))
    return sam


# --- the driver ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FittedSam:
    """A trained compact SAM.

    Attributes:
        checkpoint: URI of its weights.
        epochs: Losses, learning rate and seconds of each epoch.
        seconds: Wall-clock time of training in seconds, without drawing the scenes.
    """

    checkpoint: str
    epochs: list[Epoch]
    seconds: float


def train_sam(config: TrainSamConfig, output: str) -> FittedSam:
    """Draw scenes and train on them.

    Args:
        config: The user's options.
        output: URI below which scenes, model, history and checkpoints are written.

    Raises:
        ConfigError: More workers than GPUs.
        StorageError: The weights to start from do not exist or cannot be fetched.
        TrainingError: The backbone or the weights to start from cannot be used, training diverged, workers were lost
            too often, or the run to resume had other options.
    """
    plan = plan_training(config.workers)
    from persam_ray.compact_sam.packed_scenes import LEFT_OUT, OTHER_FABRICS

    settings = config.settings
    start = None if config.start is None else locate(config.start)
    told = asdict(settings) | {
        "backbone": config.backbone,
        "start": start and public(start),
        "scenes": config.scenes,
        "first_seed": config.first_seed,
        "left_out": LEFT_OUT,
        "other_fabrics": OTHER_FABRICS,
    }
    if config.resume:
        _check_same(output, told)
    course = Course(settings.all_steps, config.epoch_steps, output, told)
    job = SamTrainingJob(config.backbone, start, config.image_size, settings, config.precision, plan.threads, course)
    in_task(plan, _check_model, job)
    draw_scenes(output, range(config.first_seed, config.first_seed + config.scenes), plan)
    started_s = time.perf_counter()
    photos = settings.all_steps * settings.photos_per_step
    with counted_progress("training", photos) as report:
        job = replace(job, course=replace(course, report=report))
        fit(train_worker, {"job": job}, output, config.workers, plan)
    epochs = read_json(join(output, HISTORY_FILE))["epochs"]
    return FittedSam(join(output, SAM_FILE), epochs, time.perf_counter() - started_s)


def _check_model(job: SamTrainingJob) -> None:
    try:
        _build(job)
    except CheckpointError as error:
        raise TrainingError(f"--start {job.start}: {error}") from error
    except Exception as error:  # timm raises many types for a backbone without these strides
        raise TrainingError(f"--backbone {job.backbone}: {error}") from error


def _check_same(output: str, told: Mapping[str, Any]) -> None:
    """Raise TrainingError if the run to resume had other settings."""
    if not exists(join(output, HISTORY_FILE)):
        return  # it was stopped in its first epoch, or never began
    before = read_json(join(output, HISTORY_FILE))["settings"]
    differing = sorted(name for name in told if before.get(name) != told[name])
    if differing:
        was = ", ".join(f"{name} was {before.get(name)!r}" for name in differing)
        raise TrainingError(f"--resume: the run at {output} had other options: {was}")
