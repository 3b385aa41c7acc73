"""The label job from Python."""

from __future__ import annotations

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


def label(
    *, images: str, output: str, references: Mapping[str, Sequence[Pair]] | str | None = None, **options: Any
) -> Counts:
    """Label every photo of a folder or bucket, on the Ray cluster that RAY_ADDRESS names or on a local one.

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
    images: str, output: str, references: Mapping[str, Sequence[Pair]] | str | None, options: Mapping[str, Any]
) -> LabelConfig:
    allowed = {field.name for field in fields(LabelConfig)} - {"config", "images", "output", "reference", "references"}
    if unknown := sorted(options.keys() - allowed):
        raise ConfigError(f"unknown option {unknown[0]!r}; allowed are {', '.join(sorted(allowed))}")
    values = {name: _repeatable(name, value) for name, value in options.items()}
    if isinstance(references, Mapping):
        values["reference"] = tuple(
            _joined(category, fspath(image), fspath(mask))
            for category, pairs in references.items()
            for image, mask in pairs
        )
    else:
        values["references"] = references
    return LabelConfig(images=fspath(images), output=fspath(output), **values)


def _repeatable(name: str, value: Any) -> Any:
    """Return a repeatable option as a tuple, even if a single value is given."""
    if name not in {"category", "reference_ids"}:
        return value
    return (value,) if isinstance(value, str) else tuple(value)


def _joined(category: str, image: str, mask: str) -> str:
    """Return a pair in the form of `--reference`: CATEGORY=IMAGE,MASK."""
    if "=" in category or "," in mask:
        raise ConfigError(f"a category has no '=' and the path of a mask no ',', but got {category!r}, {mask!r}")
    return f"{category}={image},{mask}"
