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
    """Label every photo of a bucket from one reference photo and its mask.

    Example: persam-ray label --images s3://bucket/photos --reference cup=cup.jpg,cup_mask.png
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

    method: MethodName = "persam"
    """persam needs no fitting; persam_f fits two mask weights on the reference first (about a second per category)."""

    guidance: Guidance = "aligned"
    """Where PerSAM's attention map lies on photos that are not square: aligned with the image, or squashed as in the
    official code (for comparisons with it)."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type that SAM computes in; auto is bfloat16 where that is faster and hardly changes a mask."""

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
