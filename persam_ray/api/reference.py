"""A reference: one photo and mask of a category, opened from files, bytes, PIL images or arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from persam_ray import types
from persam_ray.api.photos import ImageLike, open_mask, open_photo
from persam_ray.errors import BadReferenceError
from persam_ray.images import BadImageError


@dataclass(frozen=True, eq=False)
class Reference(types.Reference):
    """One photo and the mask that shows a category in it.

    Attributes:
        category: What the mask shows; not empty.
        image_hw3: RGB, uint8.
        mask_hw: bool, True on the object, of the image's size and with at least one pixel.

    Raises:
        BadReferenceError: A type, size or value is not as above, or the mask is empty.
    """

    @classmethod
    def open(cls, category: str, image: ImageLike, mask: ImageLike) -> Self:
        """Read a photo and its mask.

        Args:
            category: What the mask shows.
            image: The photo: a path or URL, bytes, a PIL image or an array (`api.photos.open_photo`).
            mask: The mask, likewise (`api.photos.open_mask`).

        Raises:
            BadReferenceError: Photo and mask cannot be used together; the message says why.
            StorageError: A file cannot be read.

        Example:
            >>> cup = Reference.open("cup", "cup.jpg", "cup_mask.png")
        """
        try:
            return cls(category, np.asarray(open_photo(image)), open_mask(mask))
        except BadImageError as error:
            raise BadReferenceError(f"reference of {category!r}: {error}") from error
