"""TODO cluster.progress."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import ray
import ray.data
from ray.exceptions import RayError

from persam_ray.cluster.counter import ProgressCounter
from persam_ray.cluster.plan import on_this_node


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
