"""Open photos and masks from what Python code holds: a path or URL, the bytes of a file, a PIL image, or an array."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike, fspath
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from persam_ray.data.storage import read_bytes
from persam_ray.images import BadImageError, as_mask, as_photo, decode_mask, decode_photo
from persam_ray.types import BoolArray, as_binary_mask

DecodedT = TypeVar("DecodedT")

ImageLike = str | PathLike[str] | bytes | Image.Image | npt.NDArray[np.generic]
"""A path or URL, the bytes of an image file, a PIL image, or an array."""


def open_photo(photo: ImageLike) -> Image.Image:
    """Return a photo in RGB. The EXIF orientation of files and PIL images is applied, as in the label job.

    Args:
        photo: Anything of ImageLike. An array must be uint8 and upright: RGB (h, w, 3) or gray (h, w).

    Raises:
        BadImageError: It is none of ImageLike, cannot be decoded, has more than `images.MAX_PIXELS`, or is an array of
            another type or shape.
        StorageError: The file cannot be read.
    """
    if isinstance(photo, Image.Image):
        return as_photo(photo)
    if isinstance(photo, np.ndarray):
        is_gray_or_rgb = photo.ndim == 2 or (photo.ndim == 3 and photo.shape[2] == 3)
        if photo.dtype != np.uint8 or not is_gray_or_rgb or not photo.size:
            raise BadImageError(
                f"a photo must be uint8 of shape (h, w, 3) or (h, w), but got {photo.dtype} of shape {photo.shape}"
            )
        return as_photo(Image.fromarray(photo))
    return _decoded(photo, decode_photo)


def open_mask(mask: ImageLike) -> BoolArray:
    """Return a mask (h, w), True on the object.

    Args:
        mask: Anything of ImageLike. In an array of any type, (h, w) or (h, w, channels), nonzero values mark the
            object. Images are read as in the label job (`images.as_mask`); give a JPEG as Pillow has opened it, for
            after `convert` its specks of gray would count as object.

    Raises:
        BadImageError: It is none of ImageLike, cannot be decoded, or has more than `images.MAX_PIXELS`.
        BadReferenceError: An array has another number of dimensions.
        StorageError: The file cannot be read.
    """
    if isinstance(mask, Image.Image):
        return as_mask(mask)
    if isinstance(mask, np.ndarray):
        return as_binary_mask(mask)
    return _decoded(mask, decode_mask)


def _decoded(file: str | PathLike[str] | bytes, decode: Callable[[bytes], DecodedT]) -> DecodedT:
    """Decode a file's content; an error names the file."""
    if isinstance(file, bytes):
        return decode(file)
    if not isinstance(file, str | PathLike):
        raise BadImageError(
            f"an image must be a path or URL, bytes, a PIL image or an array, but is {type(file).__name__}"
        )
    uri = fspath(file)
    try:
        return decode(read_bytes(uri))
    except BadImageError as error:
        raise BadImageError(f"{uri}: {error}") from error
