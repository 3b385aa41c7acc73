"""DeepFashion-MultiModal: `images/*.jpg`, and for some of them `segm/<name>_segm.png`, a map of class indices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from persam_ray.data.annotations import BadAnnotationError, from_mask
from persam_ray.data.dataset import Dataset, dataset_of_files, file_key
from persam_ray.data.files import ImageFile
from persam_ray.data.storage import join
from persam_ray.images import IMAGE_SUFFIXES, open_image

DEEPFASHION_CATEGORIES = (
    "background", "top", "outer", "skirt", "dress", "pants", "leggings", "headwear", "eyeglass", "neckwear", "belt",
    "footwear", "bag", "hair", "face", "skin", "ring", "wrist wearing", "socks", "gloves", "necklace", "rompers",
    "earrings", "tie",
)  # fmt: skip
"""The classes of DeepFashion-MultiModal's `segm` maps, by index."""


@dataclass(frozen=True)
class IndexMap:
    """The `segm` map of a photo: one channel, the index of the class at each pixel.

    Attributes:
        uri: Path or URL of the PNG.
    """

    uri: str

    def read(self, encoded: bytes) -> tuple[list[dict[str, Any]], tuple[int, int]]:
        """Return an ANNOTATION row for each class that occurs, background left out, and the map's (h, w)."""
        return from_index_map(encoded)

    def categories(self, encoded: bytes) -> frozenset[str]:
        """Return the classes that occur, background left out."""
        return frozenset(row["category"] for row in from_index_map(encoded)[0])


def from_index_map(encoded: bytes) -> tuple[list[dict[str, Any]], tuple[int, int]]:
    """Read a DeepFashion-MultiModal `segm` PNG.

    Returns:
        One ANNOTATION row for each class that occurs, background left out, with the whole mask of the class; and the
        map's (h, w) in pixels.

    Raises:
        BadAnnotationError: The file is not a single-channel image of class indices.
    """
    try:
        index_hw = np.asarray(open_image(encoded))
    except Exception as error:  # Pillow raises many types for damaged files
        raise BadAnnotationError(f"the segm map cannot be read: {error}") from error
    if index_hw.ndim != 2 or index_hw.dtype.kind not in "ui" or index_hw.max() >= len(DEEPFASHION_CATEGORIES):
        raise BadAnnotationError(
            f"the segm map must be one channel of class indices 0 to {len(DEEPFASHION_CATEGORIES) - 1}, but it is "
            f"{index_hw.dtype} of shape {index_hw.shape} with values up to {index_hw.max()}"
        )
    rows = [from_mask(DEEPFASHION_CATEGORIES[index], index_hw == index) for index in np.unique(index_hw) if index > 0]
    return rows, (index_hw.shape[0], index_hw.shape[1])


def list_deepfashion(uri: str, names: Mapping[str, str]) -> Dataset:
    """List the photos below images/, each with its map below segm/ where there is one."""
    maps = {name for name in names if name.startswith("segm/")}
    files = []
    for name in names:
        if name.startswith("images/") and name.lower().endswith(IMAGE_SUFFIXES):
            key = name.removeprefix("images/")
            segm = f"segm/{key[: key.rfind('.')]}_segm.png"
            truth = IndexMap(join(uri, segm)) if segm in maps else None
            version = f"{names[name]} {names[segm]}" if segm in maps else names[name]
            files.append(ImageFile(file_key(key), join(uri, name), truth, version))
    return dataset_of_files(uri, "deepfashion", files)
