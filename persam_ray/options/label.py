"""The options of `persam-ray label`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from persam_ray.errors import ConfigError
from persam_ray.methods.registry import MethodName
from persam_ray.options.base import LabelingConfig, Repeated, check_apart, check_between, require, split_ids
from persam_ray.types import Guidance


@dataclass(frozen=True, kw_only=True)
class LabelConfig(LabelingConfig):
    """Label every photo of a folder or bucket from one reference photo and its mask.

    Exit status: 0 when every photo was labeled; 3 when the run is complete but some photos could not be used (their
    rows say why); 1 when it stopped early (the same command continues it).

    Example: persam-ray label --images s3://bucket/photos --reference cup=cup.jpg,cup_mask.png
    --output s3://bucket/labels
    """

    demo: bool = False
    """Try the job without photos or downloads.
    It draws 70 photos into demo/scenes, labels the tops in them with the bundled SAM, and writes to demo/labels.
    Most other options can be combined with it."""

    reference: Annotated[Repeated, tyro.conf.arg(metavar="CATEGORY=IMAGE,MASK")] = ()
    """A photo and its mask, paths or URLs.
    Non-zero pixels of the mask are the object (in a JPEG, pixels brighter than half).
    Repeat it for more categories, or for more references of one category."""

    references: str | None = None
    """Annotated images to take the references from, instead of --reference.
    For each --category the first image that holds it is taken, in the order of the keys."""

    category: Annotated[Repeated, tyro.conf.arg(metavar="NAME")] = ()
    """Category to label; goes with --references. Repeat it for more."""

    reference_ids: Annotated[Repeated, tyro.conf.arg(metavar="ID,ID,...")] = ()
    """Take these images of --references instead of the first that holds a category."""

    sam: str = "vit_b"
    """Segment Anything weights: vit_b, vit_l, vit_h or mobile_sam (fetched once and checked by their digest),
    demo (small and bundled, for drawn photos), or the path or URL of a checkpoint (.pth, .safetensors).
    The architecture is read from the checkpoint."""

    method: MethodName = "persam"
    """How the object is found.
    persam fits nothing; persam_f first fits two mask weights on the reference, in about a second per category."""

    guidance: Guidance = "aligned"
    """How PerSAM's attention map lies on photos that are not square: aligned with the image (aligned),
    or squashed as in the official code, to compare with it (official)."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number type that SAM computes in; auto is bfloat16 where that is faster and hardly changes a mask."""

    batch_size: int | None = None
    """Photos in one pass of SAM's encoder. Default: 8 on a GPU, fewer if its memory holds fewer; 1 on a CPU."""

    feature_cache: str | None = None
    """Folder or prefix (path or URL) where SAM's features of each photo are kept.
    A later run over the same photos with the same SAM skips the encoder, whatever its references and method.
    ViT-B takes 2 MB per photo in bfloat16, 4 MB in float32.
    The folder may be deleted at any time."""

    feature_cache_gb: float = 50.0
    """Largest size of --feature-cache in gigabytes (10^9 bytes); nothing is added beyond it. 0 only reads."""

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
        """Everything that the job reads, except the weights."""
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
