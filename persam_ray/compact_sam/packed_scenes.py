"""Scenes packed as JPEG and PNG for training: 38 KB each instead of 1.3 MB, decoded when a step uses them."""

import io
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from PIL import Image

from persam_ray.demo.canvas import IntArray
from persam_ray.demo.scenes import Scene, draw_scene
from persam_ray.types import ByteArray


class ObjectPhoto(Protocol):
    """A photo and the things in it, without category names."""

    @property
    def image_hw3(self) -> ByteArray:
        """RGB, uint8."""

    @property
    def object_map_hw(self) -> IntArray:
        """Number of the thing in front at every pixel, int16."""

    @property
    def object_groups(self) -> tuple[int, ...]:
        """The group that a number belongs to (a person, a car), 0 for none."""


Views = tuple[ObjectPhoto, ObjectPhoto]
"""A scene, and the same scene with some objects left out and others of another fabric; numbers are the same in both."""

LEFT_OUT = 0.3
"""Chance of each object that belongs to a group to be left out of the second view."""

OTHER_FABRICS = 0.6
"""Chance of each thing worn to be of another fabric in the second view."""


@dataclass(frozen=True)
class PackedScene:
    """An ObjectPhoto in compressed form.

    Attributes:
        jpeg: The photo.
        object_map_png: Numbers of things, 16 bits.
        object_groups: As in ObjectPhoto.
    """

    jpeg: bytes = field(repr=False)
    object_map_png: bytes = field(repr=False)
    object_groups: tuple[int, ...]

    @property
    def image_hw3(self) -> ByteArray:
        """RGB, uint8; decoded at every call."""
        return np.asarray(Image.open(io.BytesIO(self.jpeg)))

    @property
    def object_map_hw(self) -> IntArray:
        """Number of the thing in front at every pixel, int16; decoded at every call."""
        return np.asarray(Image.open(io.BytesIO(self.object_map_png))).astype(np.int16)


def draw_views(seed: int, size_hw: tuple[int, int] = (560, 384)) -> tuple[Scene, Scene]:
    """Draw both views of a scene."""
    return draw_scene(seed, size_hw), draw_scene(seed, size_hw, left_out=LEFT_OUT, other_fabrics=OTHER_FABRICS)


def pack(scene: Scene) -> PackedScene:
    """Return what training needs of a scene."""
    buffer = io.BytesIO()
    Image.fromarray(scene.object_map_hw.astype(np.uint16)).save(buffer, format="PNG")
    return PackedScene(scene.jpeg, buffer.getvalue(), scene.object_groups)
