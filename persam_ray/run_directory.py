"""A run directory: run.json first, which says what is run; predictions/, matches/; manifest.json last: all is there."""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from persam_ray.evaluation_merge import Metrics
from persam_ray.judging import metrics_of
from persam_ray.lease import Lease
from persam_ray.parts import PREDICTIONS_FOLDER, Counts
from persam_ray.public_text import public
from persam_ray.storage import absolute, check_writable, exists, join, list_files, read_json, remove, within, write_json

VERSIONED = ("persam-ray", "ray", "torch", "segment-anything", "timm", "pyarrow", "numpy", "pillow", "pycocotools")

RUN = "run.json"
SHOWN = 5  # values of a list, in messages

OWN_FILES = re.compile(
    r"((training|mask_rcnn|mask_rcnn_filtered|persam|persam_f|persam_f_filtered)/)?"  # the benchmark's
    r"((manifest|metrics|training|benchmark|run)\.json|(mask_rcnn|compact_sam)\.safetensors|report/index\.html"
    r"|((predictions|matches|scenes)/)?part-[0-9a-f]{16}\.parquet|checkpoints/(checkpoint_.+/state\.pt|[^/]+\.json))"
)
"""What the jobs write below their output, and so what `--overwrite` may remove."""


class OutputError(ValueError):
    """The output is already in use; the message says by what."""


def prepare(output: str, inputs: Iterable[str], *, overwrite: bool, resume: bool = False) -> str:
    """Make sure that a run can be written, before any work, and return its URI, absolute if it is a path.

    Args:
        output: The run directory.
        inputs: What the job reads: none of it may lie in the output, nor the output in it.
        overwrite: Remove an earlier run's files; files that no run writes are never removed.
        resume: Leave an earlier run's files, to go on with them.

    Raises:
        OutputError: Something is there already, or the output and an input lie within each other.
        StorageError: It cannot be written.
    """
    output, existing = _check(output, inputs)
    if resume:
        return output
    if existing and not overwrite:
        raise OutputError(
            f"--output {output}: holds {len(existing)} files already ({existing[0]}, ...); use --overwrite"
        )
    for name in sorted(existing, key=lambda name: name != RUN):  # first what says that a run can be gone on with
        remove(join(output, name))
    return output


def _check(output: str, inputs: Iterable[str]) -> tuple[str, list[str]]:
    """Return the absolute URI of an output that a run can be written to, and the files of earlier runs there."""
    output = absolute(output).rstrip("/") or "/"
    for uri in map(absolute, inputs):
        if within(uri, output) or within(output, uri):
            raise OutputError(f"--output {output}: must not lie within {uri}, which is read, nor the other way round")
    check_writable(output)
    existing = list_files(output)
    foreign = [name for name in existing if not OWN_FILES.fullmatch(name)]
    if foreign:
        raise OutputError(f"--output {output}: holds files that no run writes ({foreign[0]}, ...); choose another")
    return output, existing


@contextmanager
def opened(output: str, inputs: Iterable[str], *, overwrite: bool) -> Iterator[tuple[str, Lease]]:
    """Hold a run directory for one job, to begin or to go on with a run.

    Args:
        output: The run directory.
        inputs: As for `prepare`.
        overwrite: Remove an earlier run's files.

    Yields:
        Its absolute URI, and the lease.

    Raises:
        OutputError: As for `prepare`; files of a run that cannot be gone on with are there.
        LeaseError: Another job writes there.
        StorageError: It cannot be written.
    """
    output, _ = _check(output, inputs)
    with Lease(output) as lease:
        resume = not overwrite and exists(join(output, RUN))
        yield prepare(output, inputs, overwrite=overwrite, resume=resume), lease


def begin(output: str, identity: Mapping[str, Any], run_id: str) -> list[dict[str, Any]]:
    """Write run.json, which says what is run here, and take away the manifest until the run is complete.

    Args:
        output: The run directory.
        identity: What decides the predictions, by the option's name; two runs of one directory agree in all of it.
        run_id: Of this run.

    Returns:
        The runs so far, this one last, each with its `run_id` and `started` (UTC); complete ones have their counts.

    Raises:
        OutputError: Runs of another identity have labeled something there; the message says in what they differ.
    """
    identity = json.loads(json.dumps(identity))
    uri = join(output, RUN)
    found: Any = read_json(uri) if exists(uri) else {"identity": identity, "runs": []}
    is_ours = (
        isinstance(found, dict) and isinstance(found.get("identity"), dict) and isinstance(found.get("runs"), list)
    )
    if not is_ours:
        raise OutputError(f"--output {output}: its run.json is damaged; use --overwrite, or another output")
    if differing := [name for name, value in identity.items() if found["identity"].get(name) != value]:
        _check_differing(output, found["identity"], identity, differing[0])
        found = {"identity": identity, "runs": []}
    runs = [*found["runs"], {"run_id": run_id, "started": _now()}]
    write_json(uri, {"identity": identity, "runs": runs})
    remove(join(output, "manifest.json"))
    return runs


def _check_differing(output: str, there: Mapping[str, Any], identity: Mapping[str, Any], name: str) -> None:
    """Raise OutputError where the other runs have labeled anything; if they failed before that, they bind nobody."""
    predictions = join(output, PREDICTIONS_FOLDER)
    if not (exists(predictions) and list_files(predictions)):
        return
    value = identity[name]
    is_short = isinstance(value, str | float) or (isinstance(value, list) and len(value) <= SHOWN)
    differ = f"was {there.get(name)}, and now is {value}" if is_short else "differ"
    raise OutputError(
        f"--output {output}: holds a run whose {name} {differ}; give the same, another --output, or --overwrite"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        counts: What was done.
        judged: Packed summaries (judging.pack) of the images that have ground truth.
    """

    counts: Counts
    judged: tuple[bytes, ...]

    def __add__(self, other: Outcome) -> Outcome:
        """Add up the outcomes of different images."""
        return Outcome(self.counts + other.counts, self.judged + other.judged)

    def metrics(self) -> Metrics | None:
        """Return the metrics of the images that have ground truth, if any has."""
        return metrics_of(self.judged) if self.judged else None


def add_up(summaries: Iterable[Mapping[str, Any]]) -> dict[str, Outcome]:
    """Add up the SUMMARY rows that the writers return, as they arrive, by run."""
    counts: dict[str, Counts] = defaultdict(Counts)
    judged: dict[str, list[bytes]] = defaultdict(list)
    for row in summaries:
        counts[row["run"]] += Counts.from_json(row["counts"])
        if row["judged"] is not None:
            judged[row["run"]].append(row["judged"])
    return {run: Outcome(own, tuple(judged[run])) for run, own in counts.items()}


def check_complete(counts: Counts, images: int) -> None:
    """Raise OutputError unless every listed image has become exactly one row."""
    if counts.images != images:
        raise OutputError(f"{images} images were listed, but {counts.images} rows written: the input changed meanwhile")


def check_written(counts: Counts, rows: int) -> None:
    """Raise OutputError unless the files hold just the rows that were counted."""
    if counts.images != rows:
        raise OutputError(
            f"{counts.images} rows were counted, but the files hold {rows}: another job has written here; the same "
            "command again puts it in order"
        )


def finish(
    output: str,
    config: Mapping[str, Any],
    fingerprints: Mapping[str, Any],
    counts: Counts,
    metrics: Metrics | None,
    seconds: Mapping[str, float],
    runs: Sequence[dict[str, Any]] = (),
) -> None:
    """Write metrics.json where images had ground truth, then the manifest."""
    if metrics:
        write_json(join(output, "metrics.json"), metrics.as_dict())
    else:
        remove(join(output, "metrics.json"))
    write_manifest(output, config, fingerprints, counts, seconds, runs)


def write_manifest(
    output: str,
    config: Mapping[str, Any],
    fingerprints: Mapping[str, Any],
    counts: Counts,
    seconds: Mapping[str, float],
    runs: Sequence[dict[str, Any]] = (),
) -> None:
    """Write manifest.json, which makes the run complete.

    Args:
        output: The run directory.
        config: The job's options.
        fingerprints: Of the checkpoint and the references.
        counts: Of all rows that are there.
        seconds: Wall-clock time by step; `label` is what images per second are counted over.
        runs: From `begin`, the last with what it did (`labeled`, ...); run.json is told that it is complete.
    """
    labeled = counts.images
    if runs:
        *earlier, last = runs
        labeled = last["labeled"]
        runs = [*earlier, last | {"finished": _now()}]
        write_json(join(output, RUN), read_json(join(output, RUN)) | {"runs": runs})
    content = {
        **fingerprints,
        "counts": vars(counts),
        "seconds": {step: round(spent_s, 3) for step, spent_s in seconds.items()},
        "images_per_second": round(labeled / seconds["label"], 3) if seconds.get("label") else None,
        "runs": list(runs),
    }
    _write_manifest(output, config, content)


def write_training_manifest(
    output: str, config: Mapping[str, Any], train_ids: Sequence[str], start: Mapping[str, Sequence[str]], seconds: float
) -> None:
    """Write manifest.json, which makes a training run complete.

    Args:
        output: The run directory.
        config: The job's options.
        train_ids: The images.
        start: Names of the tensors that start weights filled, left at random, or did not use.
        seconds: Wall-clock time of training.
    """
    content = {
        "train_ids": list(train_ids),
        "start": {name: list(tensors) for name, tensors in start.items()},
        "seconds": {"train": round(seconds, 3)},
    }
    _write_manifest(output, config, content)


def _write_manifest(output: str, config: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    options = {name: _without_secrets(value) for name, value in config.items()}
    versions = {name: version(name) for name in VERSIONED} | {"python": sys.version.split()[0]}
    write_json(join(output, "manifest.json"), {"config": options, **content, "versions": versions})


def _without_secrets(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_without_secrets(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _without_secrets(item) for name, item in value.items()}
    return public(value) if isinstance(value, str) else value
