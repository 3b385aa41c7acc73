"""Label photos in this process, without Ray: one photo in, its instances out, as the label job would find them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike, fspath
from typing import Literal, get_args

import numpy as np
import torch

from persam_ray.api.photos import ImageLike, open_photo
from persam_ray.compute.precision import Precision
from persam_ray.data.checkpoints import read_sam
from persam_ray.data.weights import locate
from persam_ray.errors import ConfigError, check_choice
from persam_ray.images import resize_photo
from persam_ray.methods.references import encode_references
from persam_ray.methods.registry import SAM_METHODS, MethodName, make_method
from persam_ray.sam.model import Sam
from persam_ray.types import Checkpoint, EncodedPhotos, Guidance, Reference, Segmentation, Target

Device = Literal["auto", "cpu", "cuda"]


class OpenedSam(Sam):
    """A SAM that remembers where its weights are, so that they can be read again.

    Attributes:
        uri: Path or URL of the checkpoint.
    """

    def __init__(self, uri: str, checkpoint: Checkpoint, device: str, precision: Precision) -> None:
        super().__init__(checkpoint, device, precision)
        self.uri = uri

    def exact(self) -> Sam:
        """Return the model in float32: itself if it is exact already, else read again from `uri`."""
        if self.is_exact:
            return self
        return Sam(read_sam(self.uri)[0], self.device, "float32")


def load_sam(
    name_or_uri: str | PathLike[str] = "vit_b", device: Device = "auto", precision: Precision = "auto"
) -> OpenedSam:
    """Load a frozen Segment Anything Model.

    Args:
        name_or_uri: `vit_b`, `vit_l`, `vit_h`, `mobile_sam` (fetched once, digest verified), `demo` (bundled), or
            the path or URL of a checkpoint.
        device: `auto` means `cuda` if there is a GPU, else `cpu`.
        precision: `auto` means bfloat16 where that is faster and hardly changes masks, else float32.

    Raises:
        CheckpointError: The file is not a checkpoint of a known layout.
        ConfigError: Device or precision is unknown, or `cuda` is asked for, but no GPU can be used here.
        StorageError: The file is missing or cannot be read.

    Example:
        >>> sam = load_sam("demo")
    """
    check_choice("device", device, get_args(Device))
    check_choice("precision", precision, get_args(Precision))
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device must be auto or cpu, but is cuda: no GPU can be used here")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    uri = locate(fspath(name_or_uri))
    return OpenedSam(uri, read_sam(uri)[0], device, precision)


class Labeler:
    """Finds in photos the objects that references show.

    Making a labeler loads the weights and learns the references. Calling it labels one photo.

    Args:
        sam: A name, path or URL as for `load_sam`, or a loaded SAM.
        references: At least one. References of the same category are pooled.
        method: `persam` needs no fitting; `persam_f` fits two mask weights for each category first.
        guidance: How PerSAM's attention map is placed on photos that are not square: `aligned` or `official`.
        device: As for `load_sam`; ignored if `sam` is loaded already.
        precision: As for `load_sam`; ignored if `sam` is loaded already.

    Raises:
        ConfigError: No reference is given, or the method, guidance, device or precision is unknown.
        CheckpointError, StorageError: As for `load_sam`.

    Example:
        >>> labeler = Labeler("demo", [Reference.open("cup", "cup.jpg", "cup_mask.png")])
        >>> for instance in labeler("photo.jpg"):
        ...     print(instance.category, instance.score, instance.box_xyxy, instance.mask_hw.shape)
    """

    def __init__(
        self,
        sam: str | PathLike[str] | Sam,
        references: Iterable[Reference],
        method: MethodName = "persam",
        *,
        guidance: Guidance = "aligned",
        device: Device = "auto",
        precision: Precision = "auto",
    ) -> None:
        check_choice("method", method, SAM_METHODS)
        check_choice("guidance", guidance, get_args(Guidance))
        known = _known(references)
        self.sam = sam if isinstance(sam, Sam) else load_sam(sam, device, precision)
        self._method = make_method(method, guidance)
        self._targets = self._learned(known)

    def _learned(self, references: Sequence[Reference]) -> list[Target]:
        """Learn one target for each category, in the order in which the references first name them."""
        learning = self.sam.exact() if self._method.fits and isinstance(self.sam, OpenedSam) else self.sam
        encoded = encode_references(learning, references)
        categories = dict.fromkeys(reference.category for reference in references)
        own = [[one for one in encoded if one.reference.category == category] for category in categories]
        return [self._method.learn(learning, examples) for examples in own]

    def __call__(self, photo: ImageLike) -> list[Segmentation]:
        """Return the instances in a photo, in the order of the categories; an empty list if nothing was found.

        Args:
            photo: A path or URL, the bytes of an image file, a PIL image, or an array (uint8 RGB).

        Raises:
            BadImageError: The photo cannot be decoded or used.
            StorageError: The file cannot be read.
        """
        image = open_photo(photo)
        frame = self.sam.frame((image.height, image.width))
        features_bchw = self.sam.encode([np.asarray(resize_photo(image, frame.resized_hw))])
        (instances,) = self._method.segment(self.sam, EncodedPhotos(features_bchw, [frame]), self._targets).wait()
        return instances


def _known(references: Iterable[Reference]) -> Sequence[Reference]:
    """Return the references, having checked that there is at least one and nothing else."""
    if isinstance(references, Reference):
        raise ConfigError("references must be a list of references, but is a single one")
    known = tuple(references)
    if not known:
        raise ConfigError("references must be at least one, but there is none")
    if others := [type(one).__name__ for one in known if not isinstance(one, Reference)]:
        raise ConfigError(f"references must be pr.Reference objects, but one is of type {others[0]}")
    return known
