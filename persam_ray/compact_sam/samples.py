"""What a Segment Anything Model learns from: a drawn scene, cropped and recoloured, and masks to ask it for.

A scene of 560 x 384 pixels comes in; a photo with its longest side at the model's image size (512 x 351 x 3 bytes) and
8 masks of 128 x 128 go out, each with its first prompt. Names of categories play no part. Every random choice follows
from a seed.

Suffixes: h w rows and columns, k target masks. Pixels are of the model frame: resized, before padding; a cell is
4 x 4 of them, the resolution of SAM's masks.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from persam_ray.compact_sam.layout import Layout, lay_out
from persam_ray.compact_sam.packed_scenes import ObjectPhoto
from persam_ray.images import resize, resized_size_hw
from persam_ray.masks import tight_box
from persam_ray.types import BoolArray, ByteArray

Labels = npt.NDArray[np.int16]
Floats = npt.NDArray[np.float32]

CELL_PX = 4
LEAST_CELLS = 12
"""Targets with fewer cells are dropped: 3 x 4 cells are less than one cell of SAM's features (4 x 4)."""

PADDING = -1
BOX_NOISE, BOX_NOISE_LIMIT = 0.1, 20 / 1024
"""Standard deviation of a box prompt's edges as part of its sides, and its limit as part of the image size (Kirillov
et al. 2023, appendix A: 10%, at most 20 pixels of 1024)."""

BESIDE_POINT, ON_POINT, PADDING_POINT = 0, 1, -1
BOX_CORNERS = (2, 3)
"""SAM's labels of prompt tokens."""

PROMPT_KINDS = {"point": 0.4, "box": 0.4, "two points": 0.2}
"""How often each is the first prompt; two points are one on the object and one beside it."""

DYE = 0.35
"""Standard deviation of the logarithms of the factors by which a dyed object's red, green and blue change."""

TARGET_KINDS = {"object": 0.6, "union": 0.15, "group": 0.25}
"""How often each is drawn. A union of touching objects of one group teaches the scale between part and whole."""


@dataclass(frozen=True)
class SampleSettings:
    """How samples are made from scenes.

    Attributes:
        image_size_px: Side of the model's square input, a multiple of 32.
        targets: Masks asked for in each photo; the encoder runs once for all. 0 leaves the layout alone.
        zoom: Photos are cropped to windows smaller by up to this factor; 1 is off.
        colour: Brightness, contrast and saturation change by factors up to 1 +- this, in [0, 1].
        dyed: Chance of a photo, in [0, 1], that each of its objects gets other colours.
    """

    image_size_px: int = 384
    targets: int = 6
    zoom: float = 2.0
    colour: float = 0.3
    dyed: float = 0.5

    def __post_init__(self) -> None:
        if self.image_size_px < 64 or self.image_size_px % 32:
            raise ValueError(f"image_size_px must be a multiple of 32, at least 64, but got {self.image_size_px}")
        for name, low, high in (("targets", 0, math.inf), ("zoom", 1, math.inf), ("colour", 0, 1), ("dyed", 0, 1)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must be in [{low}, {high}], but got {value}")


@dataclass(frozen=True)
class Sample:
    """A photo and masks to ask for.

    Attributes:
        image_hw3: RGB, uint8, the longest side at the model's image size.
        masks_khw: bool, on the cells of the padded model frame, each at least LEAST_CELLS.
        xy_kt2: First prompts, two tokens each: x and y of pixels, float32.
        labels_kt: What the tokens are (BESIDE_POINT, ON_POINT, PADDING_POINT, BOX_CORNERS), int64.
        layout: Where all things of the photo lie.
        seed: Seed of the later prompts.
    """

    image_hw3: ByteArray
    masks_khw: BoolArray
    xy_kt2: Floats
    labels_kt: npt.NDArray[np.int64]
    layout: Layout
    seed: int

    @property
    def size_px(self) -> int:
        """Side of the model's square input."""
        return CELL_PX * int(self.masks_khw.shape[1])


def make_sample(scene: ObjectPhoto, settings: SampleSettings, seed: int) -> Sample:
    """Crop, mirror and recolour a scene, and draw targets in it with their first prompts.

    If too few targets are large enough, they are repeated, each time with another prompt.

    Raises:
        ValueError: No object in the scene is large enough.
    """
    random = np.random.default_rng(seed)
    photo_hw3, map_hw = scene.image_hw3, scene.object_map_hw
    for zoom in (settings.zoom, 1.0):
        image_hw3, objects_hw = _framed(photo_hw3, map_hw, settings.image_size_px, zoom, random)
        masks = list(_targets(objects_hw, scene.object_groups, settings.targets, random))
        if masks or not settings.targets:
            break
    else:
        raise ValueError(f"no object of the scene has {LEAST_CELLS} cells at {settings.image_size_px} pixels")
    cells = settings.image_size_px // CELL_PX
    asked = [masks[number % len(masks)] for number in range(settings.targets)]
    masks_khw = np.array(asked, dtype=np.bool_).reshape(-1, cells, cells)
    xy_kt2, labels_kt = _first_prompts(masks_khw, _cells_of_photo(image_hw3, masks_khw), settings, random)
    return Sample(
        image_hw3=_recoloured(_dyed(image_hw3, objects_hw, settings.dyed, random), settings.colour, random),
        masks_khw=masks_khw,
        xy_kt2=xy_kt2,
        labels_kt=labels_kt,
        layout=_layout(objects_hw, scene.object_groups, random),
        seed=int(random.integers(2**63)),
    )


# --- photo -----------------------------------------------------------------------------------------------------------


def _framed(
    photo_hw3: ByteArray, map_hw: Labels, size_px: int, zoom: float, random: np.random.Generator
) -> tuple[ByteArray, Labels]:
    """Return a window of the photo in the model frame, perhaps mirrored, and its map of objects, padded."""
    height, width = map_hw.shape
    factor = math.exp(random.uniform(0, math.log(zoom)))
    rows, columns = max(1, round(height / factor)), max(1, round(width / factor))
    top, left = int(random.integers(height - rows + 1)), int(random.integers(width - columns + 1))
    window = slice(top, top + rows), slice(left, left + columns)
    size_hw = resized_size_hw((rows, columns), size_px)
    image_hw3 = resize(photo_hw3[window], size_hw)
    objects_hw = cv2.resize(np.ascontiguousarray(map_hw[window]), size_hw[::-1], interpolation=cv2.INTER_NEAREST)
    if random.random() < 0.5:
        image_hw3, objects_hw = image_hw3[:, ::-1], objects_hw[:, ::-1]
    padding = ((0, size_px - size_hw[0]), (0, size_px - size_hw[1]))
    return image_hw3, np.pad(objects_hw, padding, constant_values=PADDING)


def _dyed(image_hw3: ByteArray, objects_hw: Labels, chance: float, random: np.random.Generator) -> ByteArray:
    """Return the photo, by chance with every object in other colours."""
    if random.random() >= chance:
        return image_hw3
    height, width, _ = image_hw3.shape
    gains_n3 = np.exp(random.normal(scale=DYE, size=(int(objects_hw.max()) + 1, 3))).astype(np.float32)
    dyed_hw3 = image_hw3 * gains_n3[objects_hw[:height, :width]]
    return np.asarray(np.clip(dyed_hw3 + 0.5, 0, 255), dtype=np.uint8)


def _recoloured(image_hw3: ByteArray, colour: float, random: np.random.Generator) -> ByteArray:
    brightness, contrast, saturation = random.uniform(1 - colour, 1 + colour, size=3)
    pixels_hw3 = image_hw3.astype(np.float32) * np.float32(brightness)
    gray_hw1 = pixels_hw3.mean(axis=2, keepdims=True)
    pixels_hw3 = gray_hw1 + (pixels_hw3 - gray_hw1) * np.float32(saturation)
    mean = gray_hw1.mean()
    pixels_hw3 = mean + (pixels_hw3 - mean) * np.float32(contrast)
    return np.asarray(np.clip(pixels_hw3 + 0.5, 0, 255), dtype=np.uint8)


def _layout(objects_hw: Labels, groups: tuple[int, ...], random: np.random.Generator) -> Layout:
    """Return the layout of a photo, by what is at the middle of each cell."""
    things_yx = objects_hw[CELL_PX // 2 :: CELL_PX, CELL_PX // 2 :: CELL_PX]
    groups_yx = np.where(things_yx == PADDING, PADDING, np.array(groups, dtype=np.int16)[things_yx])
    return lay_out(things_yx, groups_yx, random)


# --- targets ---------------------------------------------------------------------------------------------------------


def _targets(
    objects_hw: Labels, groups: tuple[int, ...], count: int, random: np.random.Generator
) -> Iterator[BoolArray]:
    """Yield masks on cells, large enough, at most `count` of at most three times as many draws.

    Args:
        objects_hw: Object number of every pixel, PADDING outside the photo.
        groups: Group of each object number, 0 for none.
        count: How many at most.
        random: Draws them.
    """
    visible = np.unique(objects_hw)
    group_of = {int(number): groups[number] for number in visible if number != PADDING}
    for _ in range(3 * count):
        numbers = _chosen(objects_hw, group_of, random)
        mask_hw = on_cells(np.isin(objects_hw, numbers))
        if mask_hw.sum() >= LEAST_CELLS:
            yield mask_hw
            count -= 1
        if count == 0:
            return


def _chosen(objects_hw: Labels, group_of: dict[int, int], random: np.random.Generator) -> list[int]:
    """Return the numbers of the objects of one target."""
    kind = random.choice(list(TARGET_KINDS), p=list(TARGET_KINDS.values()))
    grouped = [number for number, group in group_of.items() if group > 0]
    if kind == "object" or not grouped:
        return [int(random.choice(list(group_of)))]
    if kind == "group":
        group = random.choice(sorted({group_of[number] for number in grouped}))
        return [number for number in grouped if group_of[number] == group]
    numbers = [int(random.choice(grouped))]
    for _ in range(int(random.integers(1, 3))):
        touching = _touching(objects_hw, numbers)
        candidates = [number for number in grouped if number in touching and group_of[number] == group_of[numbers[0]]]
        if candidates:
            numbers.append(int(random.choice(candidates)))
    return numbers


def _touching(objects_hw: Labels, numbers: list[int]) -> set[int]:
    """Return the numbers of other objects that share an edge or a corner of a pixel with the given ones."""
    mask_hw = np.isin(objects_hw, numbers).astype(np.uint8)
    ring_hw = cv2.dilate(mask_hw, np.ones((3, 3), np.uint8)) > mask_hw
    return {int(number) for number in np.unique(objects_hw[ring_hw])}


def on_cells(mask_hw: BoolArray) -> BoolArray:
    """Return a mask of pixels on cells: True where most of a cell's pixels are."""
    height, width = mask_hw.shape
    parts = mask_hw.reshape(height // CELL_PX, CELL_PX, width // CELL_PX, CELL_PX)
    return np.asarray(parts.sum(axis=(1, 3)) * 2 > CELL_PX**2)


# --- prompts ---------------------------------------------------------------------------------------------------------


def _cells_of_photo(image_hw3: ByteArray, masks_khw: BoolArray) -> BoolArray:
    """Return True on cells that lie within the photo, False on padding."""
    inside_hw = np.zeros(masks_khw.shape[1:], dtype=np.bool_)
    inside_hw[: image_hw3.shape[0] // CELL_PX, : image_hw3.shape[1] // CELL_PX] = True
    return inside_hw


def _first_prompts(
    masks_khw: BoolArray, inside_hw: BoolArray, settings: SampleSettings, random: np.random.Generator
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return the tokens of each mask's first prompt, (k, 2, 2), and their labels, (k, 2)."""
    kinds_k = random.choice(list(PROMPT_KINDS), size=len(masks_khw), p=list(PROMPT_KINDS.values()))
    boxes_k4 = np.array([tight_box(mask_hw) for mask_hw in masks_khw], dtype=np.float32).reshape(-1, 4) * CELL_PX
    corners_k22 = noised(boxes_k4, settings.image_size_px, random).reshape(-1, 2, 2)
    beside_khw = ~masks_khw & inside_hw
    beside_khw[~beside_khw.any(axis=(1, 2))] = True  # nothing is beside it: the prompt becomes a single point, below
    points_k22 = np.stack([random_pixels(masks_khw, random), random_pixels(beside_khw, random)], axis=1)
    alone_k = (kinds_k == "point") | (masks_khw | ~inside_hw).all(axis=(1, 2))
    points_k22[alone_k, 1] = 0
    labels_k2 = np.where(alone_k[:, None], (ON_POINT, PADDING_POINT), (ON_POINT, BESIDE_POINT))
    by_box_k1 = (kinds_k == "box")[:, None]
    xy_k22 = np.where(by_box_k1[..., None], corners_k22, points_k22)
    return xy_k22.astype(np.float32), np.where(by_box_k1, BOX_CORNERS, labels_k2).astype(np.int64)


def random_pixels(masks_khw: BoolArray, random: np.random.Generator) -> Floats:
    """Return x and y (k, 2) of a random pixel on each mask; none may be empty."""
    width = masks_khw.shape[2]
    cells = [random.choice(np.flatnonzero(mask_hw)) for mask_hw in masks_khw]
    corners = np.array([(cell % width, cell // width) for cell in cells], dtype=np.float32)
    corners_k2 = corners.reshape(-1, 2) * CELL_PX
    return np.asarray(corners_k2 + random.integers(CELL_PX, size=corners_k2.shape), dtype=np.float32)


def noised(boxes_k4: Floats, image_size_px: int, random: np.random.Generator) -> Floats:
    """Return boxes whose edges moved by chance, as a person's hand would draw them, within the input square."""
    sides_k4 = np.tile(boxes_k4[:, 2:] - boxes_k4[:, :2], 2)
    limit = BOX_NOISE_LIMIT * image_size_px
    noise_k4 = np.clip(random.normal(size=boxes_k4.shape) * BOX_NOISE * sides_k4, -limit, limit)
    return np.clip(boxes_k4 + noise_k4, 0, image_size_px).astype(np.float32)
