"""Ray's session, how its resources are shared out, and what the driver sees of the work."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

import ray
import ray.data
from ray._private import ray_constants
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from persam_ray.config import ConfigError
from persam_ray.counter import ProgressCounter
from persam_ray.progress import console

BLOCK_BYTES = 4 * 2**20
"""Decoded photos travel in blocks of this size: 5 at 512 pixels, 1 at 1024. An actor is given whole blocks, so that
with Ray's own 128 MiB the first would have 160 photos to do before the second had any."""

ACTOR_BYTES = 2 * 2**30
"""Of memory that a CPU's actor is given: with ViT-B it takes 1.3 GiB."""

CONNECT_TIMEOUT_S = 10.0


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
            check_address(address)
            console.print(f"joining Ray at {address}")
        else:
            ray_constants.ENABLE_RAY_CLUSTER = False  # a Ray of our own listens on 127.0.0.1 alone
        with _native_stderr_closed():
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        _quiet_ray_data()
        yield
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, previous)


def check_address(address: str) -> None:
    """Raise ConfigError where nothing answers at a Ray address, for which Ray itself would wait without a word.

    Args:
        address: HOST:PORT, with or without `ray://`; other forms (`auto`, `local`) are left to Ray.
    """
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not (colon and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ConfigError(f"RAY_ADDRESS={address}: no Ray cluster answers there ({error})") from error


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
    warnings.filterwarnings("ignore", "The minimum number of concurrent actors")  # of a few photos, one has all


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
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray's
    return [node for node in found if node.get("CPU")] or found  # a head that is kept free of work says CPU: 0


def plan_workers(machines: Sequence[Node], actors: int | None = None, gpus: int | None = None) -> WorkerPlan:
    """Share out a cluster so that nothing starves: on each node the actors take at most half of the CPUs.

    One actor for each GPU. Without one, an actor with a single thread for each CPU, as far as memory goes: threads that
    wait for one another at every layer, on cores that the tasks beside them want too, took a small SAM twice the time.

    Args:
        machines: From `nodes()`; sizes follow the largest (with a GPU, where there is one).
        actors: Overrides their number.
        gpus: How many there will be, where nodes start as they are needed; by default those that are there.
    """
    gpus = gpus or int(sum(node.get("GPU", 0) for node in machines))
    hosts = [node for node in machines if node.get("GPU", 0) >= 1] if gpus else machines
    if gpus and not hosts:  # actors that wait are what an autoscaler starts nodes for
        actors = actors or gpus
        return WorkerPlan(actors, 1.0, 1 / math.ceil(actors / gpus), threads=1, task_cpus=0.5)
    largest = max((node.get("CPU", 1.0) for node in hosts), default=1.0)
    on_largest = max(int(node.get("GPU", 0)) for node in hosts) if gpus else _for_cpus(hosts, largest)
    if actors:
        on_largest = math.ceil(actors / len(hosts))
        while not gpus and _fitting(hosts, _share(largest, on_largest)) < actors and on_largest < actors:
            on_largest += 1  # smaller nodes hold fewer
    share = _share(largest, on_largest)
    fitting = _fitting(hosts, share)
    return WorkerPlan(
        actors=actors or gpus or max(1, fitting),
        actor_cpus=min(1.0, share) if gpus else _unlike_a_task(share),
        actor_gpus=1 / math.ceil(actors / gpus) if gpus and actors else float(bool(gpus)),
        threads=max(1, round(largest / on_largest)),
        task_cpus=min(0.5, largest / 4),
    )


def _for_cpus(machines: Sequence[Node], cpus: float) -> int:
    """Return how many actors a node of so many CPUs holds: one for each, as far as any node's memory goes."""
    memory = min(node.get("memory", math.inf) for node in machines)
    return max(1, int(min(cpus, memory / ACTOR_BYTES)))


def _share(cpus: float, actors: int) -> float:
    """Return the CPUs of an actor where so many share half of a node; Ray takes fractions only below 1."""
    share = cpus / 2 / actors
    return float(int(share)) if share >= 1 else share


def _unlike_a_task(share: float) -> float:
    """Return a little less: Ray Data fuses stages of equal needs, and then one actor reads and decodes a whole shard,
    and labels it alone.
    """
    return 0.9 * share if share < 1 else share


def _fitting(machines: Sequence[Node], share: float) -> int:
    """Return how many actors fit."""
    return sum(int(node.get("CPU", 0) / 2 / share + 1e-9) for node in machines)


# --- work done once --------------------------------------------------------------------------------------------------


def on_this_node(*, soft: bool) -> NodeAffinitySchedulingStrategy:
    """Return the strategy that keeps a task or actor on the driver's machine; soft where another will do."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=soft)


def in_task(plan: WorkerPlan, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in one task, off the driver, and return what it returns."""
    return ray.get(ray.remote(num_cpus=plan.task_cpus)(function).remote(*arguments))


# --- progress --------------------------------------------------------------------------------------------------------


def start_counter() -> Any:
    """Start the actor beside the driver, so that no lost worker takes it along; it takes no CPU."""
    return ray.remote(ProgressCounter).options(num_cpus=0, scheduling_strategy=on_this_node(soft=False)).remote()


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
