"""The options of each job: one dataclass each, every field documented and checked when built."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from persam_ray.datasets import Format
from persam_ray.storage import absolute, within

Method = Literal["persam", "persam_f"]
Repeated = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


class ConfigError(Exception):
    """An option is wrong; the message names it and says what is allowed.

    Not a ValueError: tyro catches those, and would break the message over the lines of a box.
    """


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
        """All that the job reads, but the weights."""
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
    """What is told on the way: lines for people, or JSON lines with the run's id for what gathers logs."""

    gpus: int | None = None
    """GPUs to plan for, on a cluster that starts nodes as they are needed; by default those that are there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("min_area_fraction", "max_failed_fraction"):
            check_between(f"--{name.replace('_', '-')}", getattr(self, name), 0, 1)
        for name, value in (("--actors", self.actors), ("--gpus", self.gpus)):
            require(value is None or value >= 1, f"{name} must be at least 1, but is {value}")


@dataclass(frozen=True, kw_only=True)
class LabelConfig(LabelingConfig):
    """Label every photo of a bucket from one reference photo and its mask.

    Example: python jobs/label.py --images s3://bucket/photos --reference cup=cup.jpg,cup_mask.png
    --output s3://bucket/labels
    """

    demo: bool = False
    """Try the job without photos or downloads: 70 photos are drawn into demo/scenes and their tops labeled by the small
    SAM that comes along, into demo/labels. Other options may be given beside it."""

    reference: Annotated[Repeated, tyro.conf.arg(metavar="CATEGORY=IMAGE,MASK")] = ()
    """A photo and its mask (any non-zero pixel is the object; in a JPEG, any brighter than half), paths or URLs. Repeat
    for more categories, or for more references of one."""

    references: str | None = None
    """Annotated images to take the references from, instead of --reference: for each --category the first, in the order
    of the keys, that holds it."""

    category: Annotated[Repeated, tyro.conf.arg(metavar="NAME")] = ()
    """Category to label, with --references; repeat for more."""

    reference_ids: Annotated[Repeated, tyro.conf.arg(metavar="ID,ID,...")] = ()
    """Take these images of --references instead of the first."""

    sam: str = "vit_b"
    """Segment Anything weights: vit_b, vit_l, vit_h or mobile_sam (fetched once, digest verified), demo (small, comes
    along, for drawn photos), or the path or URL of a checkpoint (.pth, .safetensors), whose architecture is read from
    it."""

    method: Method = "persam"
    """persam needs no fitting; persam_f fits two mask weights on the reference first (about a second per category)."""

    guidance: Literal["aligned", "official"] = "aligned"
    """Where PerSAM's attention map lies on photos that are not square: aligned with the image, or squashed as in the
    official code (for comparisons with it)."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of SAM's work on each photo; auto is bfloat16 where that is faster and hardly shows."""

    batch_size: int | None = None
    """Images in one pass of SAM's encoder; by default 8 on a GPU, or as many as its memory holds, and 1 on a CPU."""

    feature_cache: str | None = None
    """Folder or prefix, a path or a URL, in which SAM's features of each photo are kept: a later run over the same
    photos with the same SAM, whatever its references and method, finds them and skips the encoder. For ViT-B 2 MB a
    photo in bfloat16, 4 MB in float32. It may be deleted at any time."""

    feature_cache_gb: float = 50.0
    """Nothing is added to --feature-cache beyond this size, in 10^9 bytes; 0 only reads."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            bool(self.reference) != bool(self.references), "give --reference CATEGORY=IMAGE,MASK or --references URI"
        )
        require(not self.references or bool(self.category), "--references needs at least one --category")
        require(not self.category or bool(self.references), "--category goes with --references, not with --reference")
        require(not self.reference_ids or bool(self.references), "--reference-ids goes with --references")
        batch_size = self.batch_size
        require(batch_size is None or batch_size >= 1, f"--batch-size must be at least 1, but is {batch_size}")
        check_between("--feature-cache-gb", self.feature_cache_gb, 0, 1_000_000)
        for pair in self.reference:
            parse_reference(pair)
        if self.feature_cache is not None:
            require(self.feature_cache != "", "--feature-cache must not be empty")
            check_apart("--feature-cache", self.feature_cache, (*self._photos, self.output))

    @property
    def inputs(self) -> tuple[str, ...]:
        """All that the job reads, but the weights."""
        return self._photos if self.feature_cache is None else (*self._photos, self.feature_cache)

    @property
    def _photos(self) -> tuple[str, ...]:
        pairs = [parse_reference(pair)[1:] for pair in self.reference]
        references = (self.references, *(uri for pair in pairs for uri in pair))
        return (*super().inputs, *(uri for uri in references if uri))

    @property
    def chosen_ids(self) -> tuple[str, ...]:
        """The ids of --reference-ids."""
        return split_ids(self.reference_ids)


@dataclass(frozen=True, kw_only=True)
class ShardConfig(JobConfig):
    """Write photos of any format, and their annotations, as Parquet shards.

    Example: python jobs/shard.py --images photos/ --output s3://bucket/shards
    """

    images_per_shard: int = 256
    """Photos in one file, 1 to 10000; a worker holds that many at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("--images-per-shard", self.images_per_shard, 1, 10_000)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(JobConfig):
    """Judge predictions against annotated images: the 12 COCO numbers, TP, FP, FN, F1, mean IoU, boundary IoU.

    Example: python jobs/evaluate.py --predictions s3://bucket/labels --images s3://bucket/shards --output s3://bucket/eval
    """

    predictions: str
    """Run directory of any labeling job, or its predictions/ folder."""

    category: Annotated[Repeated, tyro.conf.arg(metavar="NAME")] = ()
    """Category to judge; repeat for more. By default those of the run's manifest."""

    score_threshold: float = 0.0
    """Predictions of at least this score, 0 to 1, count for TP, FP, FN, mIoU and boundary IoU; AP uses all of them."""

    objects: Literal["mask", "component"] = "mask"
    """What an object is, in predictions and truth alike: a whole mask, or each connected part of it."""

    min_area_fraction: float = 0.0
    """Drop predicted objects smaller than this fraction of the image, 0 to 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.predictions != "", "--predictions must not be empty")
        check_between("--score-threshold", self.score_threshold, 0, 1)
        check_between("--min-area-fraction", self.min_area_fraction, 0, 1)
        require(len(set(self.category)) == len(self.category), "--category names one category twice")


def parse_reference(pair: str) -> tuple[str, str, str]:
    """Split CATEGORY=IMAGE,MASK.

    Raises:
        ConfigError: It has another form.
    """
    category, equals, files = pair.partition("=")
    image, comma, mask = files.rpartition(",")
    if not (category and equals and image and comma and mask):
        raise ConfigError(f"--reference must have the form CATEGORY=IMAGE,MASK, but got {pair!r}")
    return category, image, mask


def split_ids(groups: tuple[str, ...]) -> tuple[str, ...]:
    """Split a repeated option of ids at its commas."""
    return tuple(identity for group in groups for identity in group.split(",") if identity)


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def check_apart(option: str, uri: str, others: Iterable[str]) -> None:
    """Raise ConfigError where an option's folder and another place of the job lie within each other."""
    own = absolute(uri)
    for other in map(absolute, others):
        if within(own, other) or within(other, own):
            raise ConfigError(f"{option} {uri}: must not lie within {other}, nor the other way round")


def check_between(option: str, value: float, low: float, high: float) -> None:
    """Raise ConfigError unless an option's value lies between two, both allowed."""
    require(low <= value <= high, f"{option} must be between {low} and {high}, but is {value}")
