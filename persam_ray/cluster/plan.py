"""How a cluster's CPUs and GPUs are shared between the actors that hold a model and the tasks around them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import ray.data
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

ACTOR_BYTES = 2 * 2**30
"""Memory that is counted for an actor on a CPU; with ViT-B an actor takes 1.3 GiB."""


@dataclass(frozen=True)
class WorkerPlan:
    """How a cluster's resources are shared between the actors that hold the model and the tasks around them.

    Attributes:
        actors: Number of actors that hold the model.
        actor_cpus: Logical CPUs of each actor.
        actor_gpus: GPUs of each actor; a fraction if several share one, 0 without GPUs.
        threads: Torch's threads in each actor; more than its logical CPUs, because the tasks around it are light.
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
"""The resources of one machine, by Ray's names: `CPU`, `GPU`, `memory` in bytes, ..."""


def nodes() -> list[Node]:
    """Return the resources of each living node."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray's
    return [node for node in found if node.get("CPU")] or found  # a head kept free of work has CPU: 0


def plan_workers(machines: Sequence[Node], actors: int | None = None, gpus: int | None = None) -> WorkerPlan:
    """Share a cluster so that no stage starves: on each node the actors take at most half of the CPUs.

    There is one actor for each GPU. Without GPUs there is one actor with a single thread for each CPU, as far as memory
    allows. With several threads, a small SAM took twice the time: the threads wait for each other at every layer, on
    cores that the tasks beside them use too.

    Args:
        machines: Resources of the nodes, from `nodes()`. Sizes follow the largest node, or the largest with a GPU.
        actors: Number of actors; None decides by the hardware.
        gpus: Number of GPUs that there will be, if nodes start on demand; None counts those that exist.
    """
    gpus = gpus or int(sum(node.get("GPU", 0) for node in machines))
    hosts = [node for node in machines if node.get("GPU", 0) >= 1] if gpus else machines
    if gpus and not hosts:  # waiting actors make an autoscaler start nodes
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
    """Return how many actors a node with so many CPUs holds: one for each, as far as any node's memory allows."""
    memory = min(node.get("memory", math.inf) for node in machines)
    return max(1, int(min(cpus, memory / ACTOR_BYTES)))


def _share(cpus: float, actors: int) -> float:
    """Return the CPUs of each actor if so many share half of a node; Ray takes fractions only below 1."""
    share = cpus / 2 / actors
    return float(int(share)) if share >= 1 else share


def _unlike_a_task(share: float) -> float:
    """Return a slightly smaller share if it is below 1, so that it differs from a task's.

    Ray Data fuses stages with equal resources. Then one actor reads, decodes and labels a whole shard alone.
    """
    return 0.9 * share if share < 1 else share


def _fitting(machines: Sequence[Node], share: float) -> int:
    """Return how many actors with this share of CPUs fit on half of the CPUs of all machines."""
    return sum(int(node.get("CPU", 0) / 2 / share + 1e-9) for node in machines)


def on_this_node(*, soft: bool) -> NodeAffinitySchedulingStrategy:
    """Return the strategy that keeps a task or actor on the driver's machine; if `soft`, another one will do."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=soft)


def in_task(plan: WorkerPlan, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in one task, off the driver, and return what it returns."""
    return ray.get(ray.remote(num_cpus=plan.task_cpus)(function).remote(*arguments))
