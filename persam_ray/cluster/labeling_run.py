"""A labeling run, from opening its output to its manifest, as every job makes it that labels a bucket.

    open the output -> load the model -> compare photos with rows -> label the photos without a row -> add up

The same command, given again, resumes a run that stopped. Once the run is complete, it labels only new photos.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from persam_ray.cluster import labeling
from persam_ray.cluster.labeling import Labeled, ModelActors
from persam_ray.cluster.ledger import Ledger, rows_written, take_stock
from persam_ray.cluster.plan import WorkerPlan, nodes, plan_workers
from persam_ray.cluster.reading import read_rows
from persam_ray.cluster.session import session
from persam_ray.console import console, log_as_json
from persam_ray.data.dataset import Dataset
from persam_ray.data.storage import exists, join
from persam_ray.errors import PersamRayError
from persam_ray.options.base import LabelingConfig
from persam_ray.runs.counts import Counts
from persam_ray.runs.directory import begin_run, open_run
from persam_ray.runs.lease import Lease
from persam_ray.runs.manifest import finish_run
from persam_ray.runs.outcome import check_complete, check_written
from persam_ray.runs.summary import summarize, tell_cache_use
from persam_ray.stages.judge import JudgeOptions
from persam_ray.stages.write import Run
from persam_ray.text import public

SHEET = "report/index.html"
THE_RUN = ""  # name of the run: such a job writes only one
COMPLETE_WITH_FAILURES = 3
"""Exit status of a complete run in which some images could not be labeled."""


JUDGED_FROM = 100  # images; before these, failures do not end the run


class TooManyFailuresError(PersamRayError, ValueError):
    """More images fail than the user allows; what is labeled so far is kept."""


@dataclass(frozen=True)
class Model:
    """The model that a job labels with.

    Attributes:
        make: Function that returns everything needed to start actors; called only if there are photos to label.
        method: Name of the method in the model's rows.
        judge: How rows with ground truth are judged.
        fingerprints: Fingerprints of the weights and the references, for the manifest.
        identity: The model's values that decide the predictions, by option name.
        reference_ids: Keys of images whose masks the model has seen.
        cache_uri: URI of its feature cache; None if it has none.
    """

    make: Callable[[], ModelActors]
    method: str
    judge: JudgeOptions
    fingerprints: Mapping[str, Any]
    identity: Mapping[str, Any]
    reference_ids: frozenset[str] = frozenset()
    cache_uri: str | None = None


def label_dataset(
    config: LabelingConfig, dataset: Dataset, inputs: Iterable[str], load: Callable[[WorkerPlan], Model]
) -> int:
    """Label the photos that have no row yet, then write metrics, report and manifest.

    Args:
        config: The job's options.
        dataset: All photos.
        inputs: URIs that the job reads; they must lie apart from its output.
        load: Function that loads the model, on the cluster.

    Returns:
        The exit status: 0, or COMPLETE_WITH_FAILURES.

    Raises:
        OutputError: The run in the output cannot be resumed, or does not hold a row for each photo in the end.
        LeaseError: Another job writes there.
        TooManyFailuresError: More images fail than `config.max_failed_fraction` allows.
    """
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
    with log_as_json(run_id) if config.log == "json" else nullcontext():
        return _run(config, dataset, inputs, load, run_id)


def _run(
    config: LabelingConfig, dataset: Dataset, inputs: Iterable[str], load: Callable[[WorkerPlan], Model], run_id: str
) -> int:
    started_s = time.perf_counter()
    with open_run(config.output, inputs, overwrite=config.overwrite) as (output, lease), session():
        plan = plan_workers(nodes(), config.actors, config.gpus)
        model = load(plan)
        lease.check()
        history = begin_run(output, _identity(config, dataset, model), run_id)
        loaded_s = time.perf_counter()
        ledger = take_stock(dataset, output, plan)
        _tell(ledger)
        listed_s = time.perf_counter()
        run = Run(output, model.method, model.judge, config.min_area_fraction)
        labeled = _label(ledger, model, run, plan, config, lease)
        prepare_s = time.perf_counter() - listed_s - labeled.wall_s
        outcome = ledger.outcome + labeled.outcomes[THE_RUN]
        check_complete(outcome.counts, ledger.images + ledger.removed)
        check_written(outcome.counts, rows_written(output, plan))
        metrics = outcome.metrics()
        if ledger.left or not exists(join(output, SHEET)):
            labeling.write_sheet(dataset, run, outcome, metrics, plan)
        lease.check()
        waited = {"load": loaded_s - started_s, "list": listed_s - loaded_s, "prepare": prepare_s}
        history[-1] |= ledger.as_dict() | {"label_s": round(labeled.wall_s, 3)}
        cache = vars(outcome.effort.cache) if model.cache_uri else None
        fingerprints = {**model.fingerprints, "feature_cache": cache}
        seconds = waited | labeled.seconds(THE_RUN)
        finish_run(output, config.as_dict(), fingerprints, outcome.counts, metrics, seconds, history)
    if model.cache_uri:
        tell_cache_use(model.cache_uri, outcome.effort.cache)
    summarize(output, outcome.counts, ledger.left, metrics, labeled.wall_s)
    return COMPLETE_WITH_FAILURES if outcome.counts.failed else 0


def _label(ledger: Ledger, model: Model, run: Run, plan: WorkerPlan, config: LabelingConfig, lease: Lease) -> Labeled:
    if ledger.left == 0:
        return Labeled.nothing([THE_RUN])

    def watch(counts: Counts) -> None:
        lease.check_told()
        check_failures(ledger.outcome.counts + counts, config.max_failed_fraction)

    rows = read_rows(ledger.dataset, plan, ledger.done)
    return labeling.label_images(rows, ledger.left, model.make(), {THE_RUN: run}, plan, model.reference_ids, watch)


def check_failures(counts: Counts, max_failed_fraction: float) -> None:
    """Raise TooManyFailuresError if more than a fraction of the images failed, of at least JUDGED_FROM images."""
    if counts.images >= JUDGED_FROM and counts.failed > max_failed_fraction * counts.images:
        kinds = ", ".join(f"{number} {kind}" for kind, number in counts.reasons.items())
        raise TooManyFailuresError(
            f"{counts.failed} of the first {counts.images} images failed ({kinds}): more than "
            f"--max-failed-fraction {max_failed_fraction} allows"
        )


def _identity(config: LabelingConfig, dataset: Dataset, model: Model) -> dict[str, Any]:
    """Return the values that all runs of one output must agree in, by option name."""
    return {
        "--images": public(dataset.uri),
        "--format": dataset.format,
        "--annotations": None if config.annotations is None else public(config.annotations),
        "--min-area-fraction": config.min_area_fraction,
        **model.identity,
    }


def _tell(ledger: Ledger) -> None:
    """Print how many images are labeled already; nothing for a new run."""
    if ledger.done is None:
        return
    notes = [f"{ledger.changed} of them changed or unread before"] if ledger.changed else []
    notes += [f"{ledger.removed} labeled before are gone from --images, their rows stay"] if ledger.removed else []
    details = f" ({', '.join(notes)})" if notes else ""
    console.print(f"{ledger.images - ledger.left} of {ledger.images} images are labeled, {ledger.left} to go{details}")
