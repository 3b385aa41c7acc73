"""The options of each job: one dataclass each, every field documented and checked when built."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from persam_ray.errors import ConfigError
from persam_ray.types import Format

Repeated = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """What every job has."""

    output: str
    """Folder or prefix for what the job writes."""

    overwrite: bool = False
    """Remove an earlier run at --output first. Without it, labeling goes on with a run that is there: photos that have
    a row are not labeled again; for other jobs such a run is an error."""

    config: str | None = None
    """YAML file (path or URL) with any of these options; the command line wins over it."""

    def __post_init__(self) -> None:
        require(self.output != "", "--output must not be empty")  # an unset variable of a shell: the current folder

    def as_dict(self) -> dict[str, Any]:
        """Return the options as plain values, for the manifest."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "config"}


@dataclass(frozen=True, kw_only=True)
class JobConfig(OutputConfig):
    """What every job has that reads photos."""

    images: str
    """Photos: a folder or prefix of images, Parquet shards, WebDataset tars, COCO's instances_*.json, or
    DeepFashion-MultiModal's folder; a path or a URL (s3://...)."""

    format: Format = "auto"
    """Format of --images; auto looks at the names."""

    annotations: str | None = None
    """COCO instances_*.json for the photos below --images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.images != "", "--images must not be empty")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Everything that the job reads, except the weights."""
        return tuple(uri for uri in (self.images, self.annotations) if uri)


@dataclass(frozen=True, kw_only=True)
class LabelingConfig(JobConfig):
    """What every job has that labels photos.

    It ends with status 0 when every photo has been labeled, 3 when all is complete but some photos could not be (each
    row says why), 1 when it stopped before; then the same command goes on.
    """

    min_area_fraction: float = 0.0
    """Drop connected parts of a mask smaller than this fraction of the image, 0 to 1 (the paper's benchmark: 0.001)."""

    max_failed_fraction: float = 1.0
    """Stop a run in which more than this fraction of the photos fails, 0 to 1; judged from the 100th photo on."""

    actors: int | None = None
    """Workers that hold the model; by default one for each GPU, without GPUs one for each CPU if memory allows."""

    log: Literal["text", "json"] = "text"
    """How the job reports: lines for people, or JSON lines with the run's id for log collectors."""

    gpus: int | None = None
    """GPUs to plan for, on a cluster that starts nodes as they are needed; by default those that are there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("min_area_fraction", "max_failed_fraction"):
            check_between(f"--{name.replace('_', '-')}", getattr(self, name), 0, 1)
        for name, value in (("--actors", self.actors), ("--gpus", self.gpus)):
            require(value is None or value >= 1, f"{name} must be at least 1, but is {value}")


def split_ids(groups: tuple[str, ...]) -> tuple[str, ...]:
    """Split a repeated option of ids at its commas."""
    return tuple(identity for group in groups for identity in group.split(",") if identity)


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
