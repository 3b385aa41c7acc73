"""The methods by their names: what one must do, and which there are. Options, stages, runs and pages ask here.

A new method is a file beside this one, with a class as `Method` says, and an entry here. Nothing heavy is loaded by the
names alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from persam_ray.types import Guidance

if TYPE_CHECKING:
    from persam_ray.methods.answers import PendingInstances
    from persam_ray.methods.references import EncodedReference
    from persam_ray.sam.model import Sam
    from persam_ray.types import EncodedPhotos, Target

MethodName = Literal["persam", "persam_f"]

SAM_METHODS: tuple[MethodName, ...] = get_args(MethodName)
"""The methods that tell a frozen SAM what to look for."""

MASK_RCNN = "mask_rcnn"
"""The baseline, which is trained instead: it is no `Method`, but its rows and runs have a name beside theirs."""

TITLES: dict[str, str] = {MASK_RCNN: "Mask R-CNN", "persam": "PerSAM", "persam_f": "PerSAM-F"}
"""What people read for a name."""

FILTERED = "_filtered"
"""Suffix of a method's name where a run drops the small parts of its masks."""


class Method(Protocol):
    """A way to find what some references show.

    Attributes:
        fits: Whether `learn` fits numbers on the references. SAM is then exact (float32) while it learns: a rounded
            point on the reference would move the fit, and with it every mask.
    """

    @property
    def fits(self) -> bool:
        """See above."""
        ...

    def learn(self, sam: Sam, references: Sequence[EncodedReference]) -> Target:
        """Return what the references, all of one category, look like; called once for a category, on one worker."""
        ...

    def segment(self, sam: Sam, photos: EncodedPhotos, targets: Sequence[Target]) -> PendingInstances:
        """Find targets in a batch of photos.

        Args:
            sam: The model.
            photos: Photos that SAM has encoded.
            targets: What `learn` returned, for one or more categories.

        Raises:
            TypeError: A target is another method's.
        """
        ...


def make_method(name: MethodName, guidance: Guidance = "aligned") -> Method:
    """Return a method by its name.

    Args:
        name: Which.
        guidance: Where PerSAM's attention map lies on photos that are not square.
    """
    from persam_ray.methods.persam import Persam
    from persam_ray.methods.persam_f import PersamF

    methods: dict[MethodName, Method] = {"persam": Persam(guidance), "persam_f": PersamF()}
    return methods[name]
