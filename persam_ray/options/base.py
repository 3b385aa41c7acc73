"""What the options of several jobs share. Each job has one dataclass of options, checked when it is built.

`--help` says of an option what its field's docstring says, with the same line breaks: so a line ends with a sentence
where it can.
"""

from __future__ import annotations

import dataclasses
import inspect
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import tyro
from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from persam_ray.errors import ConfigError, check_choice
from persam_ray.types import Format

Repeated = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """The options that every job has."""

    output: str
    """Folder or prefix that the job writes to; a path or a URL (s3://...)."""

    overwrite: bool = False
    """Delete an earlier run at --output first.
    Without it, a labeling job continues that run: photos that have a row already are not labeled again.
    Any other job stops with an error."""

    config: str | None = None
    """YAML file (path or URL) with any of these options. The command line wins over it."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.output != "", "--output must not be empty")  # an unset variable of a shell: the current folder

    def as_dict(self) -> dict[str, object]:
        """Return the options as plain values, for the manifest."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "config"}


@dataclass(frozen=True, kw_only=True)
class JobConfig(OutputConfig):
    """The options of jobs that read photos."""

    images: str
    """Path or URL (s3://...) of the photos: a folder or prefix of image files, Parquet shards, WebDataset tars,
    a COCO instances_*.json, or a DeepFashion-MultiModal folder."""

    format: Format = "auto"
    """Format of --images; auto recognises it by the file names."""

    annotations: str | None = None
    """COCO instances_*.json that annotates the photos of the folder --images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.images != "", "--images must not be empty")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Everything that the job reads, except the weights."""
        return tuple(uri for uri in (self.images, self.annotations) if uri)


@dataclass(frozen=True, kw_only=True)
class LabelingConfig(JobConfig):
    """The options of jobs that label photos."""

    min_area_fraction: float = 0.0
    """Drop connected parts of a predicted mask that are smaller than this fraction of the image, 0 to 1.
    0 keeps all; 0.001 removes specks."""

    max_failed_fraction: float = 1.0
    """Stop when more than this fraction of the photos has failed, 0 to 1.
    It is checked from the 100th photo on; 1 never stops."""

    actors: int | None = None
    """Number of workers that hold the model.
    Default: one for each GPU; without GPUs one for each CPU, as far as memory allows."""

    log: Literal["text", "json"] = "text"
    """Progress messages: text for people, or json for log collectors (one object a line, with the run's id)."""

    gpus: int | None = None
    """Number of GPUs to plan for, on a cluster that starts nodes on demand. Default: those that are there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("min_area_fraction", "max_failed_fraction"):
            check_between(f"--{name.replace('_', '-')}", getattr(self, name), 0, 1)
        for name, value in (("--actors", self.actors), ("--gpus", self.gpus)):
            require(value is None or value >= 1, f"{name} must be at least 1, but is {value}")


def split_ids(groups: tuple[str, ...]) -> tuple[str, ...]:
    """Split a repeated option of ids at its commas."""
    return tuple(identity for group in groups for identity in group.split(",") if identity)


def check_types(config: OutputConfig) -> None:
    """Raise ConfigError unless each option has a value of its type: Python code, unlike the command line, may err."""
    for name, kind in get_type_hints(type(config)).items():
        option, value = f"--{name.replace('_', '-')}", getattr(config, name)
        if get_origin(kind) is Literal:
            check_choice(option, value, get_args(kind))
        try:
            check_type(value, kind, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
        except TypeCheckError as error:
            raise ConfigError(
                f"{option} must be {inspect.formatannotation(kind)}, but is {reprlib.repr(value)}"
            ) from error


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def check_apart(option: str, uri: str, others: Iterable[str]) -> None:
    """Raise ConfigError where an option's folder and another place of the job lie within each other."""
    from persam_ray.data.storage import absolute, within

    own = absolute(uri)
    for other in map(absolute, others):
        if within(own, other) or within(other, own):
            raise ConfigError(f"{option} {uri}: must not lie within {other}, nor the other way round")


def check_between(option: str, value: float, low: float, high: float) -> None:
    """Raise ConfigError unless an option's value lies between two, both allowed."""
    require(low <= value <= high, f"{option} must be between {low} and {high}, but is {value}")
