"""Progress of work on the cluster: workers report to an actor, and the driver shows what it has.

Progress is for display only. Nobody waits for the messages, so they may be lost, and a retried task reports again.
Figures that are kept travel with the rows (`runs.effort`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
import ray.data
from ray.exceptions import RayError

from persam_ray.cluster.counter import ProgressCounter
from persam_ray.cluster.plan import on_this_node
from persam_ray.console import show_progress
from persam_ray.stages.progress import Report


@contextmanager
def counted_progress(title: str, total: int) -> Iterator[Report]:
    """Show the progress of the work within.

    Args:
        title: Name of the work.
        total: Number of images.

    Yields:
        The function that workers call to report; it can be sent to them.
    """
    counter = start_counter()
    with show_progress(title, total, partial(read_counter, counter)):
        yield partial(_report, counter)


def start_counter() -> Any:
    """Start the counting actor on the driver's machine, so that it survives lost workers; it takes no CPU."""
    return ray.remote(ProgressCounter).options(num_cpus=0, scheduling_strategy=on_this_node(soft=False)).remote()


def read_counter(counter: Any) -> tuple[int, int]:
    """Return images and failures so far; zeros if the actor is gone."""
    try:
        sums: tuple[int, int] = ray.get(counter.read.remote())
    except RayError:
        return 0, 0
    return sums


def _report(counter: Any, images: int, failed: int) -> None:
    counter.add.remote(images, failed)
