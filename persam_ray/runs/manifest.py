"""manifest.json, written last: options, fingerprints, versions, counts and seconds. It makes a run complete."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from persam_ray.data.storage import join, read_json, remove, write_json
from persam_ray.metrics.scores import Metrics
from persam_ray.runs.counts import Counts
from persam_ray.runs.directory import RUN, utc_now
from persam_ray.text import public

VERSIONED = ("persam-ray", "ray", "torch", "segment-anything", "timm", "pyarrow", "numpy", "pillow", "pycocotools")


def finish_run(
    output: str,
    config: Mapping[str, Any],
    fingerprints: Mapping[str, Any],
    counts: Counts,
    metrics: Metrics | None,
    seconds: Mapping[str, float],
    runs: Sequence[dict[str, Any]] = (),
) -> None:
    """Write metrics.json if images had ground truth (else remove it), then the manifest; see `write_manifest`."""
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
        fingerprints: Fingerprints of the checkpoint and the references.
        counts: Counts of all rows in the directory.
        seconds: Seconds by step; `label` is the time that images per second are computed from.
        runs: Runs so far, from `begin_run`; the last one has its numbers (`labeled`, ...) too. It is marked as
            finished, also in run.json.
    """
    labeled = counts.images
    if runs:
        *earlier, last = runs
        labeled = last["labeled"]
        runs = [*earlier, last | {"finished": utc_now()}]
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
        train_ids: Keys of the training images.
        start: Names of tensors: those that the start weights filled, those left at random, and start weights not used.
        seconds: Wall-clock time of training, in seconds.
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
