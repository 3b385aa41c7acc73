"""The label job from Python."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from os import PathLike, fspath
from typing import Any

from persam_ray.data.storage import join, read_json
from persam_ray.errors import ConfigError
from persam_ray.options.label import LabelConfig
from persam_ray.runs.counts import Counts

Pair = tuple[str | PathLike[str], str | PathLike[str]]
"""Paths or URLs of a photo and of its mask."""

NO_OPTIONS = {"config", "demo", "images", "output", "reference", "references"}
"""What `options` may not name: parameters of its own, and what belongs to the command line alone."""


def label(
    *,
    images: str | PathLike[str],
    output: str | PathLike[str],
    references: Mapping[str, Sequence[Pair]] | str | PathLike[str] | None = None,
    **options: Any,
) -> Counts:
    """Label every photo of a folder or bucket with Ray.

    It takes the Ray that this process has joined already, and leaves it running; else the cluster that RAY_ADDRESS
    names, or a local one for the time of the call.

    Call it again to go on with a run that stopped, or to label new photos.

    Args:
        images: Photos: a folder or prefix, Parquet shards, WebDataset tars, COCO or DeepFashion-MultiModal.
        output: Folder or prefix for the run directory.
        references: Pairs of photo and mask by category; or the path or URL of annotated images, with `category` too.
        options: Any other option of `persam-ray label`, with underscores (`options.label.LabelConfig`).

    Returns:
        Counts of the run directory: images, ok, failed, instances, and reasons of failure. If `failed` is above 0, the
        command `persam-ray label` would end with exit status 3.

    Raises:
        ConfigError: An option is unknown or has a value that is not allowed.
        PersamRayError: The job stopped before its end; the message says why.

    Example:
        >>> label(images="photos", references={"cup": [("cup.jpg", "cup_mask.png")]}, sam="demo", output="labels")
    """
    from persam_ray.cli.label import label as run

    config = _config(images, output, references, options)
    run(config)
    return Counts(**read_json(join(config.output, "manifest.json"))["counts"])


def _config(
    images: str | PathLike[str],
    output: str | PathLike[str],
    references: Mapping[str, Sequence[Pair]] | str | PathLike[str] | None,
    options: Mapping[str, Any],
) -> LabelConfig:
    allowed = {field.name for field in fields(LabelConfig)} - NO_OPTIONS
    if unknown := sorted(options.keys() - allowed):
        raise ConfigError(f"unknown option {unknown[0]!r}; allowed are {', '.join(sorted(allowed))}")
    values = {"images": images, "output": output, **options}
    if isinstance(references, Mapping):
        values["reference"] = [_joined(category, pair) for category, pairs in references.items() for pair in pairs]
    else:
        values["references"] = references
    return LabelConfig(**{name: _plain(name, value) for name, value in values.items()})


def _plain(name: str, value: Any) -> Any:
    """Return an option's value as the options class has it: a path as text, one or several names as a tuple."""
    if isinstance(value, PathLike):
        return fspath(value)
    if name in {"category", "reference_ids"} and isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _joined(category: str, pair: Pair) -> str:
    """Return a pair in the form of `--reference`: CATEGORY=IMAGE,MASK.

    Raises:
        ConfigError: It is no pair of paths, or a character would make that form ambiguous.
    """
    is_pair = isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(uri, str | PathLike) for uri in pair)
    if not isinstance(category, str) or not is_pair:
        raise ConfigError(
            "references must be lists of (photo, mask) by category, paths or URLs, but one is "
            f"{reprlib.repr(pair)} of {category!r}"
        )
    image, mask = (fspath(uri) for uri in pair)
    if "=" in category or "," in mask:
        raise ConfigError(f"a category has no '=' and the path of a mask no ',', but got {category!r}, {mask!r}")
    return f"{category}={image},{mask}"
