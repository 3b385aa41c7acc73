"""A run directory: predictions/, metrics.json, and manifest.json, which is written last and says that all is there."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from persam_ray.storage import check_writable, join, list_files, remove, write_json

VERSIONED = ("persam-ray", "ray", "torch", "segment-anything", "timm", "pyarrow", "numpy", "pillow", "pycocotools")


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


def prepare(output: str, *, overwrite: bool) -> None:
    """Make sure that a run can be written, before any work.

    Raises:
        OutputError: Something is there already, and `overwrite` is False.
        StorageError: It cannot be written.
    """
    check_writable(output)
    existing = list_files(output)
    if existing and not overwrite:
        raise OutputError(
            f"--output {output}: holds {len(existing)} files already ({existing[0]}, ...); use --overwrite"
        )
    for name in existing:
        remove(join(output, name))


def add_up(summaries: Iterable[Mapping[str, Any]]) -> tuple[Counts, list[bytes]]:
    """Add up the SUMMARY rows that the writers return, as they arrive, and gather what they say of the quality."""
    sums = {"images": 0, "ok": 0, "failed": 0, "instances": 0}
    judged: list[bytes] = []
    for row in summaries:
        sums = {name: value + row[name] for name, value in sums.items()}
        if row["summary"] is not None:
            judged.append(row["summary"])
    return Counts(**sums), judged


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
    versions = {name: version(name) for name in VERSIONED} | {"python": sys.version.split()[0]}
    content = {
        "config": config,
        **fingerprints,
        "versions": versions,
        "counts": vars(counts),
        "seconds": {step: round(spent_s, 3) for step, spent_s in seconds.items()},
        "images_per_second": round(counts.images / seconds["label"], 3) if seconds.get("label") else None,
    }
    write_json(join(output, "manifest.json"), content)
