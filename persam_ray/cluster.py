"""What needs Ray itself: the session, how its resources are shared out, the datasource, work done once on a worker."""

from __future__ import annotations

import logging
import math
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from persam_ray.datasets import Dataset, DatasetError, key_hashes, repeated_hashes, repeated_key
from persam_ray.progress import console
from persam_ray.shards import ParquetShard, Shard, read_predictions

if TYPE_CHECKING:
    from persam_ray.stages import SegmentOptions
    from persam_ray.types import Checkpoint, Reference, Target

BLOCK_BYTES = 32 * 2**20
"""Decoded photos travel in blocks of this size: 40 at 512 pixels, 13 at 1024. Ray's own 128 MiB would let the first
actor wait for 160 photos."""

SCAN_TASKS = 64

ROWS_PER_PARTITION = 2000
"""Images that one task judges: their run-length strings are a few KB each."""


# --- the session -----------------------------------------------------------------------------------------------------


@contextmanager
def session() -> Iterator[None]:
    """Join the cluster this runs on, or start a local one; leave no process behind, whatever happens."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else Ray warns of how Ray Data makes its own actors
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray 2.60's coming default; silences its warning
    previous = signal.signal(signal.SIGTERM, _exit_on_signal)  # so that a scheduler's stop runs the `finally` too
    try:
        if address := os.environ.get("RAY_ADDRESS"):
            console.print(f"joining Ray at {address}")
        with _native_stderr_closed():
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        _quiet_ray_data()
        yield
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _native_stderr_closed() -> Iterator[None]:
    """Keep Ray's C++ start-up lines (that it read the log level) off the terminal; exceptions come through."""
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def _exit_on_signal(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _quiet_ray_data() -> None:
    """Leave the display to ours: Ray Data's bars count blocks of each operator, not photos."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = BLOCK_BYTES
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised, and said once, by us


def cause_of(error: BaseException) -> BaseException:
    """Return what went wrong in a worker, without Ray's wrapping."""
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error


# --- resources -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WorkerPlan:
    """How a cluster's resources are shared between the actors that hold the model and the tasks around them.

    Attributes:
        actors: How many hold the model.
        actor_cpus: Logical CPUs of each.
        actor_gpus: GPUs of each.
        threads: Of torch in each; more than its logical CPUs, because the tasks around it are light.
        task_cpus: Logical CPUs of a task that reads, decodes or writes.
    """

    actors: int
    actor_cpus: float
    actor_gpus: float
    threads: int
    task_cpus: float

    @property
    def device(self) -> str:
        """`cuda` where the actors have a GPU."""
        return "cuda" if self.actor_gpus else "cpu"


Node = Mapping[str, float]
"""What one machine has: `CPU`, `GPU`, ..."""


def nodes() -> list[Node]:
    """Return the resources of each living node."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray's


def plan_workers(machines: Sequence[Node], actors: int | None = None) -> WorkerPlan:
    """Share out a cluster so that nothing starves: on each node the actors take at most half of the CPUs.

    One actor for each GPU. Without one, an actor for every 4 CPUs of that half, as many on a node as fit: on 2 CPUs a
    single actor with 1 of them and 2 threads, and two tasks of half a CPU beside it.

    Args:
        machines: From `nodes()`; sizes follow the largest (with a GPU, where there is one).
        actors: Overrides their number.
    """
    gpus = int(sum(node.get("GPU", 0) for node in machines))
    hosts = [node for node in machines if node.get("GPU", 0) >= 1] if gpus else machines
    largest = max((node.get("CPU", 1.0) for node in hosts), default=1.0)
    on_largest = max(int(node.get("GPU", 0)) for node in hosts) if gpus else max(1, int(largest / 8))
    if actors:
        on_largest = math.ceil(actors / len(hosts))
    share = largest / 2 / on_largest
    share = float(int(share)) if share >= 1 else share  # Ray takes fractions only below 1
    fitting = sum(int(node.get("CPU", 0) / 2 / share) for node in hosts)
    return WorkerPlan(
        actors=actors or gpus or max(1, fitting),
        actor_cpus=min(1.0, share) if gpus else share,
        actor_gpus=1 / math.ceil(actors / gpus) if gpus and actors else float(bool(gpus)),
        threads=max(1, round(largest / on_largest)),
        task_cpus=min(0.5, largest / 4),
    )


# --- reading ---------------------------------------------------------------------------------------------------------


class Readable(Protocol):
    """What yields tables in a worker."""

    def read(self) -> Iterator[pa.Table]:
        """Yield tables of one schema."""
        ...


class ShardDatasource(Datasource):
    """Ray Data's view of our shards: one read task for each."""

    def __init__(self, shards: Sequence[Readable]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray leaves it untyped
        self._shards = shards

    def estimate_inmemory_data_size(self) -> int | None:
        """Return None: sizes are known only by reading."""
        return None

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002 - shards are cut already
        per_task_row_limit: int | None = None,
        data_context: Any = None,  # noqa: ARG002 - nothing to configure
    ) -> list[ReadTask]:
        """Return a task for each shard."""
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(shard.read, unknown, per_task_row_limit=per_task_row_limit) for shard in self._shards]


def read_rows(dataset: Dataset, plan: WorkerPlan) -> ray.data.Dataset:
    """Return the rows of a dataset (READ schema), streamed."""
    rows: ray.data.Dataset = ray.data.read_datasource(
        ShardDatasource(dataset.shards), override_num_blocks=len(dataset.shards), num_cpus=plan.task_cpus
    )
    return rows


def join_predictions(dataset: Dataset, predictions: Dataset, images: int, plan: WorkerPlan) -> ray.data.Dataset:
    """Put each image's ground truth beside its prediction, by key; a row that is on one side only stays, half empty.

    Args:
        dataset: The annotated images; their pixels are not read.
        predictions: Parquet files of the PREDICTIONS schema, listed.
        images: How many there are, which decides the number of partitions.
        plan: For the tasks' size.
    """
    truth_shards = [_Truths(shard) for shard in dataset.shards]
    found_shards = [_Predictions(shard.uri) for shard in predictions.shards if isinstance(shard, ParquetShard)]
    truths, found = (
        ray.data.read_datasource(ShardDatasource(shards), override_num_blocks=len(shards), num_cpus=plan.task_cpus)
        for shards in (truth_shards, found_shards)
    )
    joined: ray.data.Dataset = truths.join(
        found, join_type="full_outer", on=("image_id",), num_partitions=max(1, -(-images // ROWS_PER_PARTITION))
    )
    return joined


@dataclass(frozen=True)
class _Truths:
    """A shard's keys, sizes and annotations, marked as such."""

    shard: Shard

    def read(self) -> Iterator[pa.Table]:
        for table in self.shard.read(pixels=False):
            yield table.drop(["image"]).append_column("is_image", pa.array([True] * len(table)))


@dataclass(frozen=True)
class _Predictions:
    """A file of predictions, its size columns renamed so that both sides keep theirs."""

    uri: str

    def read(self) -> Iterator[pa.Table]:
        for table in read_predictions(self.uri):
            renamed = table.drop(["error"]).rename_columns({"height": "predicted_height", "width": "predicted_width"})
            yield renamed.append_column("is_prediction", pa.array([True] * len(table)))


def count_images(dataset: Dataset, plan: WorkerPlan) -> int:
    """Return the number of images, having checked that no key occurs twice.

    Listed files have unique names. The keys of Parquet and WebDataset shards are read in tasks, which return 8 bytes
    for each; the driver holds none of them.

    Raises:
        DatasetError: Two rows have one image_id.
        SchemaError: A Parquet file lacks a column.
        StorageError: A shard cannot be read.
    """
    if dataset.images is not None:
        return dataset.images  # listing has refused an empty one
    groups = [dataset.shards[start::SCAN_TASKS] for start in range(min(SCAN_TASKS, len(dataset.shards)))]
    scan = ray.remote(num_cpus=plan.task_cpus)(key_hashes)
    check = ray.remote(num_cpus=plan.task_cpus)(_check_keys)
    count: int = ray.get(check.remote(dataset.uri, dataset.shards, *[scan.remote(group) for group in groups]))
    return count


def _check_keys(uri: str, shards: Sequence[Shard], *hashes: np.ndarray[Any, Any]) -> int:
    all_hashes = np.concatenate(hashes)
    suspects = repeated_hashes(all_hashes)
    image_id = repeated_key(shards, suspects.tolist()) if len(suspects) else None
    if image_id is not None:
        raise DatasetError(f"{uri}: two rows have the image_id {image_id!r}; keys must be unique")
    if len(all_hashes) == 0:
        raise DatasetError(f"{uri}: its files hold no images")
    return len(all_hashes)


# --- work done once --------------------------------------------------------------------------------------------------


def load_checkpoint(uri: str) -> tuple[ray.ObjectRef[Checkpoint], str, int]:
    """Read a checkpoint into the object store, where all actors share its memory.

    It is read on this node, where `checkpoints.locate` has put it, but not by the driver.

    Returns:
        Its reference, its fingerprint, and the side of the model's input in pixels.

    Raises:
        CheckpointError: Its layout is unknown.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    read = ray.remote(_read_checked).options(num_cpus=0, num_returns=3, scheduling_strategy=here)
    checkpoint, fingerprint, image_size_px = cast("Any", read.remote(uri))  # three references, as asked for above
    return checkpoint, ray.get(fingerprint), ray.get(image_size_px)


def _read_checked(uri: str) -> tuple[Checkpoint, str, int]:
    from persam_ray.checkpoints import read_checkpoint
    from persam_ray.sam_build import build_modules
    from persam_ray.types import CheckpointError

    checkpoint = read_checkpoint(uri)
    try:
        modules = build_modules(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{uri}: {error}") from error
    return checkpoint, checkpoint.fingerprint, modules.image_size_px


def make_targets(
    checkpoint: ray.ObjectRef[Checkpoint],
    references: Mapping[str, Sequence[Reference]],
    options: SegmentOptions,
    method: str,
    plan: WorkerPlan,
) -> ray.ObjectRef[list[Target]]:
    """Make the targets on one worker with the actors' hardware; they stay in the object store."""
    make = ray.remote(_make_targets).options(num_cpus=plan.actor_cpus, num_gpus=plan.actor_gpus, num_returns=2)
    targets, made = cast("Any", make.remote(checkpoint, references, options, method))  # two references, as asked for
    ray.get(made)  # raises what went wrong, here and now
    return cast("ray.ObjectRef[list[Target]]", targets)


def _make_targets(
    checkpoint: Checkpoint, references: Mapping[str, Sequence[Reference]], options: SegmentOptions, method: str
) -> tuple[list[Target], int]:
    from dataclasses import replace

    from persam_ray.persam import make_target
    from persam_ray.persam_f import make_target_f
    from persam_ray.stages import load_sam

    sam = load_sam(checkpoint, options)
    make = {"persam": make_target, "persam_f": make_target_f}[method]
    targets = [make(sam, examples) for examples in references.values()]
    on_cpu = [
        replace(
            target,
            feature_c=target.feature_c.cpu(),
            embedding_c=target.embedding_c.cpu(),
            mask_weights_3=None if target.mask_weights_3 is None else target.mask_weights_3.cpu(),
        )
        for target in targets
    ]
    return on_cpu, len(on_cpu)


def fetcher(*references: ray.ObjectRef[Any]) -> partial[list[Any]]:
    """Return a callable that gets objects in an actor, so that stages need not know Ray."""
    return partial(ray.get, list(references))


# --- progress --------------------------------------------------------------------------------------------------------


class ProgressCounter:
    """An actor that adds up what the stages report."""

    def __init__(self) -> None:
        self._images = self._failed = 0
        self._seconds: dict[str, float] = {}

    def add(self, images: int, failed: int, seconds: Mapping[str, float]) -> None:
        """Count images, failures among them, and seconds by step."""
        self._images += images
        self._failed += failed
        for step, spent_s in seconds.items():
            self._seconds[step] = self._seconds.get(step, 0.0) + spent_s

    def read(self) -> tuple[int, int, dict[str, float]]:
        """Return the sums so far."""
        return self._images, self._failed, self._seconds


def start_counter() -> Any:
    """Start the actor beside the driver, so that no lost worker takes it along; it takes no CPU."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(ProgressCounter).options(num_cpus=0, scheduling_strategy=here).remote()


def read_counter(counter: Any) -> tuple[int, int, dict[str, float]]:
    """Return what the counter has; zeros if it is gone, for it is only there to look at."""
    try:
        sums: tuple[int, int, dict[str, float]] = ray.get(counter.read.remote())
    except RayError:
        return 0, 0, {}
    return sums


def report_to(counter: Any) -> partial[None]:
    """Return what a stage calls to report to the counter, without waiting for it."""
    return partial(_report, counter)


def _report(counter: Any, images: int, failed: int, seconds: Mapping[str, float]) -> None:
    counter.add.remote(images, failed, seconds)
