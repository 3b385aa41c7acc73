"""The canvas: colours and, for every pixel, the object that is in front there.

It is drawn at twice the size of the photo (a 560 x 384 photo: 1120 x 768, 2.6 MB of RGB) and reduced at the end. That
gives colours smooth edges. The object map comes from the same outlines and keeps hard edges.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from persam_ray.demo.fabrics import Fabric, FloatArray, sample_relief
from persam_ray.demo.palettes import Colour
from persam_ray.demo.shapes import Outline, Point, xy
from persam_ray.types import ByteArray

IntArray = npt.NDArray[np.int16]

OVERSAMPLING = 2
SUBPIXEL_BITS = 4
NO_OBJECT = 0

Box = tuple[slice, slice]
"""Rows and columns of the enlarged canvas."""


class Frame(Protocol):
    """Where a fabric's (u, v) lie in the photo."""

    def coordinates(self, x_hw: FloatArray, y_hw: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return u and v at pixels of the photo."""


@dataclass(frozen=True)
class Flat:
    """A surface that faces the camera.

    Attributes:
        origin: Point with u = v = 0, pixels.
        unit_px: Pixels of one unit of u and v (for clothes, the wearer's height).
        angle: Direction of v, radians from straight down towards the left.
    """

    origin: Point
    unit_px: float
    angle: float = 0.0

    def coordinates(self, x_hw: FloatArray, y_hw: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return u and v at pixels of the photo."""
        x, y = x_hw - np.float32(self.origin[0]), y_hw - np.float32(self.origin[1])
        cosine, sine = np.float32(np.cos(self.angle) / self.unit_px), np.float32(np.sin(self.angle) / self.unit_px)
        return x * cosine + y * sine, y * cosine - x * sine


@dataclass(frozen=True)
class Ground:
    """A level ground in perspective; u and v are meters, u to the right and v away from the camera.

    Attributes:
        horizon_y: Row of the horizon, pixels.
        center_x: Column to which it recedes, pixels.
        camera_m: Height of the camera above the ground.
        focal_px: Focal length in pixels of the photo: about 1.6 heights for a portrait lens.
    """

    horizon_y: float
    center_x: float
    camera_m: float
    focal_px: float

    def coordinates(self, x_hw: FloatArray, y_hw: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return u and v at pixels of the photo."""
        meters = np.float32(self.camera_m) / np.maximum(y_hw - np.float32(self.horizon_y), 1)
        return (x_hw - np.float32(self.center_x)) * meters, meters * np.float32(self.focal_px)


@dataclass(frozen=True)
class Light:
    """The light of a scene.

    Attributes:
        toward_xy: From a surface to the light, in the picture plane, length 1.
        relief: Contrast of lit and unlit sides, about 0.15 (overcast) to 0.5 (sun).
        shadow: Depth of cast shadows, share of the brightness.
    """

    toward_xy: Point
    relief: float
    shadow: float


@dataclass(frozen=True)
class Piece:
    """Something to paint: the union of its outlines in one fabric.

    Attributes:
        outlines: Outlines of the covered area.
        fabric: The fabric; or a factor that makes the colours already there darker or brighter.
        frame: Frame of the fabric's pattern.
        roundness_px: Radius of its body, for the shading of its sides; 0 is flat.
        shadow: Depth of the shadow that it casts on its own group's things behind it, relative to the light's.
        clip: Paint only where its object is already in front (prints, pockets, buttons).
    """

    outlines: tuple[Outline, ...]
    fabric: Fabric | float
    frame: Frame
    roundness_px: float = 0.0
    shadow: float = 0.0
    clip: bool = False


@dataclass
class Canvas:
    """A picture being painted from back to front.

    Attributes:
        size_hw: The photo's (h, w) in pixels.
        light: Light on everything that is painted.
        leave_out: Decides for each new object of a group whether it is left out: numbered, but never painted.
        other_fabric: Returns another fabric for a thing worn, or None to keep its own.
        labels: Label by object number.
        groups: Group by object number, 0 for none.
        group_labels: Label by group.
        left_out: Numbers of the objects that are never painted.
        colour: RGB so far, enlarged.
        ids: Number of the object in front, enlarged.
    """

    size_hw: tuple[int, int]
    light: Light
    leave_out: Callable[[], bool] = lambda: False
    other_fabric: Callable[[], Fabric | None] = lambda: None
    labels: list[str] = field(default_factory=lambda: ["nothing"])
    groups: list[int] = field(default_factory=lambda: [0])
    group_labels: list[str] = field(default_factory=lambda: ["nothing"])
    left_out: set[int] = field(default_factory=set)
    colour: ByteArray = field(init=False)
    ids: IntArray = field(init=False)

    def __post_init__(self) -> None:
        height, width = (side * OVERSAMPLING for side in self.size_hw)
        self.colour = np.zeros((height, width, 3), dtype=np.uint8)
        self.ids = np.zeros((height, width), dtype=np.int16)

    def new_group(self, label: str) -> int:
        """Open a group: a thing that is made of several objects (a person, a car)."""
        self.group_labels.append(label)
        return len(self.group_labels) - 1

    def new_object(self, label: str, group: int = 0) -> int:
        """Name an object; what is painted with the returned number belongs to it."""
        self.labels.append(label)
        self.groups.append(group)
        number = len(self.labels) - 1
        if group > 0 and self.leave_out():
            self.left_out.add(number)
        return number

    def fill(self, object_id: int, outlines: Sequence[Outline], colour: Colour) -> None:
        """Paint flat, without shading: for small and distant things."""
        found = self._cover(outlines, margin_px=0)
        if found is not None and object_id not in self.left_out:
            box, alpha = found
            self._blend(box, alpha, np.asarray(colour, dtype=np.float32))
            self.ids[box][alpha > 127] = object_id

    def fill_new(self, label: str, group: int, outlines: Sequence[Outline], colour: Colour) -> int:
        """Paint flat as an object of its own; return its number."""
        number = self.new_object(label, group)
        self.fill(number, outlines, colour)
        return number

    def paint(self, object_id: int, piece: Piece) -> None:
        """Paint a piece with its pattern, folds, relief and shadow."""
        found = self._cover(piece.outlines, margin_px=piece.roundness_px)
        if found is None or object_id in self.left_out:
            return
        box, alpha = found
        if piece.clip:
            alpha[self.ids[box] != object_id] = 0
        if isinstance(piece.fabric, float):
            self._blend(box, alpha, self.colour[box] * np.float32(piece.fabric))
            return
        if piece.shadow > 0:
            self._cast_shadow(box, alpha, piece, self.groups[object_id])
        x_hw, y_hw = _pixel_centers(box)
        u_hw, v_hw = piece.frame.coordinates(x_hw, y_hw)
        shade_hw = self._shade(alpha, u_hw, v_hw, piece.fabric, piece.roundness_px)
        self._blend(box, alpha, _lit(piece.fabric.sample(u_hw, v_hw), shade_hw, piece.fabric.gloss))
        self.ids[box][alpha > 127] = object_id

    def defocus(self, sigma_px: float) -> None:
        """Blur all colours painted so far (what lies behind the plane of focus); the objects stay sharp."""
        if sigma_px > 0.3:
            half = cv2.resize(self.colour, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            blurred = cv2.GaussianBlur(half, (0, 0), sigma_px)
            height, width = self.colour.shape[:2]
            self.colour = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]

    def darken(self, outlines: Sequence[Outline], depth: float, softness_px: float) -> None:
        """Lay a shadow on everything below the outlines, without changing the objects."""
        found = self._cover(outlines, margin_px=3 * softness_px)
        if found is not None:
            box, alpha = found
            soft = _soften(alpha, softness_px * OVERSAMPLING)
            region = self.colour[box]
            region[:] = (region * (1 - np.float32(depth) * soft)[..., None]).astype(np.uint8)

    def reduced(self) -> tuple[ByteArray, IntArray]:
        """Return the picture (h, w, 3) and the object map (h, w) at the photo's size."""
        height, width = self.size_hw
        colour = cv2.resize(self.colour, (width, height), interpolation=cv2.INTER_AREA)
        return colour, np.ascontiguousarray(self.ids[1::OVERSAMPLING, 1::OVERSAMPLING])  # type: ignore[return-value]

    def _cover(self, outlines: Sequence[Outline], margin_px: float) -> tuple[Box, ByteArray] | None:
        """Return the box around outlines and their coverage in it, 0 to 255, or None if they lie outside."""
        corners = np.concatenate(outlines) if outlines else np.zeros((0, 2))
        if not len(corners):
            return None
        low = np.floor((corners.min(axis=0) - margin_px) * OVERSAMPLING).astype(int) - 2
        high = np.ceil((corners.max(axis=0) + margin_px) * OVERSAMPLING).astype(int) + 3
        left, top = np.maximum(low, 0)
        right, bottom = np.minimum(high, self.ids.shape[::-1])
        if right <= left or bottom <= top:
            return None
        alpha = np.zeros((bottom - top, right - left), dtype=np.uint8)
        for outline in outlines:
            # a pixel of the canvas has its center on whole numbers for OpenCV, on halves for us
            local = (outline * OVERSAMPLING - 0.5 - xy(left, top)) * 2**SUBPIXEL_BITS
            corner_list = [np.round(local).astype(np.int32)]
            cv2.fillPoly(alpha, corner_list, 255, cv2.LINE_AA, SUBPIXEL_BITS)
        return (slice(int(top), int(bottom)), slice(int(left), int(right))), alpha

    def _blend(self, box: Box, alpha: ByteArray, rgb: FloatArray) -> None:
        region = self.colour[box]
        weight = alpha.astype(np.float32)[..., None] * np.float32(1 / 255)
        region[:] = (region + (rgb - region) * weight + np.float32(0.5)).clip(0, 255).astype(np.uint8)

    def _cast_shadow(self, box: Box, alpha: ByteArray, piece: Piece, group: int) -> None:
        """Lay the piece's shadow on things of its own group behind it, on the side away from the light."""
        reach = piece.roundness_px * 0.3 * OVERSAMPLING
        shift = np.array([[1, 0, -self.light.toward_xy[0] * reach], [0, 1, -self.light.toward_xy[1] * reach]])
        soft = cv2.warpAffine(_soften(alpha, reach), shift, alpha.shape[::-1])
        own = np.asarray(self.groups, dtype=np.int16)[self.ids[box]] == group
        region = self.colour[box]
        darkness = np.float32(self.light.shadow * piece.shadow) * soft * own
        region[:] = (region * (1 - darkness)[..., None]).astype(np.uint8)

    def _shade(
        self, alpha: ByteArray, u_hw: FloatArray, v_hw: FloatArray, fabric: Fabric, roundness_px: float
    ) -> FloatArray:
        """Return brightness factors (h, w): lit and unlit sides, folds, weave."""
        shade = np.ones(alpha.shape, dtype=np.float32)
        if roundness_px > 0:
            shade += self._relief(alpha, roundness_px)
        if fabric.folds > 0:
            folds = sample_relief("folds", u_hw, v_hw, span=0.55)
            side = -np.sign(self.light.toward_xy[0])
            shade += np.float32(fabric.folds * 0.6 * side) * np.clip(folds, -1.6, 1.6)
        if fabric.grain > 0:
            shade += np.float32(fabric.grain) * sample_relief("weave", u_hw, v_hw, span=0.5)
        return shade

    def _relief(self, alpha: ByteArray, roundness_px: float) -> FloatArray:
        """Return the light on a body whose sides curve away within `roundness_px` of its edge."""
        step = 4 if min(alpha.shape) > 16 else 1
        small = cv2.resize(alpha, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
        sigma = max(roundness_px * OVERSAMPLING / step * 0.6, 0.5)
        padded = cv2.copyMakeBorder(small, 2, 2, 2, 2, cv2.BORDER_REPLICATE).astype(np.float32) / 255
        height = cv2.GaussianBlur(padded, (0, 0), sigma)
        slope_x, slope_y = (cv2.Sobel(height, cv2.CV_32F, *axes, scale=1 / 8) * sigma for axes in ((1, 0), (0, 1)))
        toward = self.light.toward_xy
        lit = -(slope_x * np.float32(toward[0]) + slope_y * np.float32(toward[1])) * np.float32(2.4 * self.light.relief)
        edge = (np.minimum(height, 1) - 1) * np.float32(0.5)
        inner = (lit + edge)[2:-2, 2:-2]
        return cv2.resize(inner, alpha.shape[::-1], interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]


def _pixel_centers(box: Box) -> tuple[FloatArray, FloatArray]:
    """Return x and y, in pixels of the photo, of the canvas pixels in a box, both (h, w)."""
    rows, columns = (np.arange(side.start, side.stop, dtype=np.float32) for side in box)
    x, y = np.meshgrid((columns + 0.5) / OVERSAMPLING, (rows + 0.5) / OVERSAMPLING)
    return x.astype(np.float32), y.astype(np.float32)


def _soften(alpha: ByteArray, sigma: float) -> FloatArray:
    """Return the coverage, 0 to 1, blurred; in a quarter of the size, which is enough for something soft."""
    step = 4 if min(alpha.shape) > 16 and sigma > 2 else 1
    small = cv2.resize(alpha, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    blurred = cv2.GaussianBlur(small, (0, 0), max(sigma / step, 0.3))
    return cv2.resize(blurred, alpha.shape[::-1], interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]


def _lit(rgb: FloatArray, shade_hw: FloatArray, gloss: float) -> FloatArray:
    """Return colours under the light; on glossy surfaces the brightest places turn white."""
    lit = rgb * np.maximum(shade_hw, 0.15)[..., None]
    if gloss > 0:
        shine = np.clip(shade_hw - np.float32(1.08), 0, 0.5) * np.float32(gloss * 500)
        lit = lit + shine[..., None]
    return np.asarray(lit, dtype=np.float32)
