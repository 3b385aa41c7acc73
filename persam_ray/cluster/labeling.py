"""A pass of all images through a model on Ray actors, as every labeling job makes it.

    actors = models.sam_actors(...)
    labeled = label_images(rows, images, actors, runs, plan)

The driver sees counts and summaries, but no pixels, masks or weights.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
import ray.data
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

from persam_ray.cluster.plan import WorkerPlan, in_task
from persam_ray.cluster.progress import counted_progress
from persam_ray.cluster.session import cause_of
from persam_ray.console import console
from persam_ray.data.dataset import Dataset
from persam_ray.errors import error_line
from persam_ray.report.contact_sheet import write_contact_sheet
from persam_ray.runs.counts import Counts
from persam_ray.runs.outcome import Outcome, add_up, check_complete
from persam_ray.stages.decode import DecodeImages
from persam_ray.stages.detect import DetectOptions
from persam_ray.stages.progress import Report
from persam_ray.stages.segment import SegmentStage
from persam_ray.stages.targets import SegmentOptions
from persam_ray.stages.write import Run, WritePredictions

if TYPE_CHECKING:
    from persam_ray.metrics.scores import Metrics

ROWS_PER_CALL = 16
CALLS_PER_ACTOR = 8  # at least, in small runs, so that the actors end together
IMAGES_PER_ACTOR = 16  # up to so many for each, one starts alone: starting the others may take longer than the images
CALLS_IN_FLIGHT = 2
"""Calls that an actor holds: it works on one, and one waits. With more, other actors would have to wait for work. With
fewer, Ray Data would not add actors to the first one: it adds them from 1.75 calls for each actor on."""

LEAST_ROWS_PER_FILE, ROWS_PER_FILE = 16, 1024  # in runs of up to 16,000 photos, and of a million or more


@dataclass(frozen=True)
class ModelActors:
    """Everything that is needed to start actors with a model.

    Attributes:
        stage: Class of the stage; it is made with `load`, `options` and a function to report to.
        load: Function that the actor calls to get the model's checkpoint, and for SAM its targets.
        options: How the model works.
        frame_hw: Maps the (h, w) of a photo to the (h, w) at which the model takes it, both in pixels.
        batch_size: Photos that the model takes at once.
        check: Raises the error of any work that the actors wait for; called when they fail, because it may be why.
    """

    stage: type[SegmentStage]
    load: Callable[[], Any]
    options: SegmentOptions | DetectOptions
    frame_hw: Callable[[tuple[int, int]], tuple[int, int]]
    batch_size: int = 1
    check: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Labeled:
    """The result of a pass over all images.

    Attributes:
        outcomes: Outcome of each run, by its name.
        wall_s: Seconds that the pass took, including the start of the actors and, on CPUs, making the targets.
    """

    outcomes: Mapping[str, Outcome]
    wall_s: float

    @classmethod
    def nothing(cls, runs: Iterable[str]) -> Labeled:
        """Return the result of a pass over no images."""
        return cls({name: Outcome(Counts(), ()) for name in runs}, 0.0)

    def seconds(self, run: str) -> dict[str, float]:
        """Return a run's seconds for its manifest: `label` by the clock, and `busy_<step>` summed over workers."""
        steps = self.outcomes[run].effort.seconds.items()
        return {"label": self.wall_s, **{f"busy_{step}": spent_s for step, spent_s in steps}}


def label_images(
    rows: ray.data.Dataset,
    images: int,
    actors: ModelActors,
    runs: Mapping[str, Run],
    plan: WorkerPlan,
    reference_ids: frozenset[str] = frozenset(),
    watch: Callable[[Counts], None] = lambda _counts: None,
) -> Labeled:
    """Label all images, and write each run's directory except its metrics and manifest.

    Args:
        rows: READ rows.
        images: Number of rows.
        actors: The model to label with.
        runs: The run directories to write, by name; several may take the rows of one method.
        plan: How the cluster is shared.
        reference_ids: Keys of images whose masks the model has seen: they are labeled, but not judged.
        watch: Called with a run's counts so far, whenever one of its files is written; an error it raises ends the
            pass.

    Raises:
        OutputError: Fewer or more rows came out of a run than images went in.
    """
    started_s = time.perf_counter()
    write = WritePredictions(runs, reference_ids)
    with counted_progress("labeling", images) as report:
        summaries = _chain(rows, images, actors, write, plan, report)
        try:
            outcomes = add_up(_watched(summaries.iter_rows(), watch))
        except RayError:
            actors.check()
            raise
    for name in runs:
        check_complete(outcomes[name].counts, images)
    return Labeled(outcomes, time.perf_counter() - started_s)


def _chain(
    rows: ray.data.Dataset,
    images: int,
    actors: ModelActors,
    write: WritePredictions,
    plan: WorkerPlan,
    report: Report,
) -> ray.data.Dataset:
    """Return the chain of stages: rows -> pixels -> predictions -> files; it yields a summary of each file."""
    tasks: dict[str, Any] = {"batch_format": "pyarrow", "num_cpus": plan.task_cpus}
    rows_per_call = _rows_per_call(images, plan.actors, actors.batch_size)
    summaries: ray.data.Dataset = (
        rows.map_batches(DecodeImages(actors.frame_hw), batch_size=rows_per_call, **tasks)
        .map_batches(
            actors.stage,
            fn_constructor_args=(actors.load, actors.options, report),
            compute=_pool(images, plan),
            batch_size=rows_per_call,
            batch_format="pyarrow",
            num_cpus=plan.actor_cpus,
            num_gpus=plan.actor_gpus,
        )
        .map_batches(write, batch_size=_rows_per_file(images), **tasks)
    )
    return summaries


def _pool(images: int, plan: WorkerPlan) -> ActorPoolStrategy:
    """Return how the actors start: all at once; or, for a few images, one, to which Ray Data adds when it is busy.

    Actors are called in their main threads, because only there does the C library keep freed memory as it is told to:
    ViT-B on two threads encodes in 1.4 s instead of 1.6. Ray Data's default is another thread, which serves calls that
    overlap; ours never do.
    """
    least = 1 if images <= IMAGES_PER_ACTOR * plan.actors else plan.actors
    return ActorPoolStrategy(
        min_size=least,
        max_size=plan.actors,
        max_tasks_in_flight_per_actor=CALLS_IN_FLIGHT,
        enable_true_multi_threading=True,
    )


def _watched(summaries: Iterable[dict[str, Any]], watch: Callable[[Counts], None]) -> Iterator[dict[str, Any]]:
    """Yield the writers' summaries unchanged, and call `watch` with the counts so far of the run of each."""
    sums: dict[str, Counts] = defaultdict(Counts)
    for row in summaries:
        sums[row["run"]] += Counts.from_json(row["counts"])
        watch(sums[row["run"]])
        yield row


def _rows_per_file(images: int) -> int:
    """Return how many rows go into one file. If the job is killed, rows that wait for their file are labeled again."""
    return min(ROWS_PER_FILE, max(LEAST_ROWS_PER_FILE, images // 1000))


def _rows_per_call(images: int, actors: int, batch_size: int) -> int:
    """Return how many rows the model's stage takes at once: few in a small run, so that every actor gets a part."""
    rows = min(ROWS_PER_CALL, max(1, images // (actors * CALLS_PER_ACTOR)))
    return math.ceil(rows / batch_size) * batch_size


def write_sheet(dataset: Dataset, run: Run, outcome: Outcome, metrics: Metrics | None, plan: WorkerPlan) -> None:
    """Write a run's contact sheet in a task. If that fails, a line says so and the run goes on."""
    facts = (run.judge.categories, vars(outcome.counts), metrics, run.judge.score_threshold)
    try:
        in_task(plan, write_contact_sheet, run.folder, dataset, *facts)
    except Exception as error:
        console.print(f"the contact sheet could not be written: {error_line(cause_of(error))}")
