"""A run directory: predictions/, matches/, metrics.json, and manifest.json, written last: it says that all is there."""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from persam_ray.evaluation_merge import Metrics
from persam_ray.judging import metrics_of
from persam_ray.public_text import public
from persam_ray.storage import absolute, check_writable, join, list_files, remove, write_json

VERSIONED = ("persam-ray", "ray", "torch", "segment-anything", "timm", "pyarrow", "numpy", "pillow", "pycocotools")


OWN_FILES = re.compile(
    r"((training|mask_rcnn|mask_rcnn_filtered|persam|persam_f|persam_f_filtered)/)?"  # the benchmark's
    r"((manifest|metrics|training|benchmark)\.json|(mask_rcnn|compact_sam)\.safetensors|report/index\.html"
    r"|((predictions|matches|scenes)/)?part-[0-9a-f]{16}\.parquet|checkpoints/(checkpoint_.+/state\.pt|[^/]+\.json))"
)
"""What the jobs write below their output, and so what `--overwrite` may remove."""


class OutputError(ValueError):
    """The output is already in use; the message says by what."""


@dataclass(frozen=True)
class Counts:
    """What a run did.

    Attributes:
        images: Input images, and so rows of predictions.
        ok: Those that were labeled (with or without instances).
        failed: Those that could not be; each row says why.
        instances: Found in all of them.
    """

    images: int
    ok: int
    failed: int
    instances: int


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
    output = absolute(output).rstrip("/") or "/"
    for uri in map(absolute, inputs):
        if _within(uri, output) or _within(output, uri):
            raise OutputError(f"--output {output}: must not lie within {uri}, which is read, nor the other way round")
    check_writable(output)
    existing = list_files(output)
    foreign = [name for name in existing if not OWN_FILES.fullmatch(name)]
    if foreign:
        raise OutputError(f"--output {output}: holds files that no run writes ({foreign[0]}, ...); choose another")
    if resume:
        return output
    if existing and not overwrite:
        raise OutputError(
            f"--output {output}: holds {len(existing)} files already ({existing[0]}, ...); use --overwrite"
        )
    for name in existing:
        remove(join(output, name))
    return output


def _within(uri: str, folder: str) -> bool:
    return f"{uri.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        counts: What was done.
        judged: Packed summaries (judging.pack) of the images that have ground truth.
    """

    counts: Counts
    judged: tuple[bytes, ...]

    def metrics(self) -> Metrics | None:
        """Return the metrics of the images that have ground truth, if any has."""
        return metrics_of(self.judged) if self.judged else None


def add_up(summaries: Iterable[Mapping[str, Any]]) -> dict[str, Outcome]:
    """Add up the SUMMARY rows that the writers return, as they arrive, by run."""
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    judged: dict[str, list[bytes]] = defaultdict(list)
    for row in summaries:
        sums[row["run"]].update({field: row[field] for field in ("images", "ok", "failed", "instances")})
        if row["summary"] is not None:
            judged[row["run"]].append(row["summary"])
    return {run: Outcome(Counts(**counts), tuple(judged[run])) for run, counts in sums.items()}


def check_complete(counts: Counts, images: int) -> None:
    """Raise OutputError unless every listed image has become exactly one row."""
    if counts.images != images:
        raise OutputError(f"{images} images were listed, but {counts.images} rows written: the input changed meanwhile")


def finish(
    output: str,
    config: Mapping[str, Any],
    fingerprints: Mapping[str, Any],
    counts: Counts,
    metrics: Metrics | None,
    seconds: Mapping[str, float],
) -> None:
    """Write metrics.json where images had ground truth, then the manifest."""
    if metrics:
        write_json(join(output, "metrics.json"), metrics.as_dict())
    write_manifest(output, config, fingerprints, counts, seconds)


def write_manifest(
    output: str,
    config: Mapping[str, Any],
    fingerprints: Mapping[str, Any],
    counts: Counts,
    seconds: Mapping[str, float],
) -> None:
    """Write manifest.json, which makes the run complete.

    Args:
        output: The run directory.
        config: The job's options.
        fingerprints: Of the checkpoint and the references.
        counts: What was done.
        seconds: Wall-clock time by step; `label` is what images per second are counted over.
    """
    content = {
        **fingerprints,
        "counts": vars(counts),
        "seconds": {step: round(spent_s, 3) for step, spent_s in seconds.items()},
        "images_per_second": round(counts.images / seconds["label"], 3) if seconds.get("label") else None,
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
