"""Pieces of a figure before it is painted. Each belongs to a named object and lies in a layer."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum, auto

import numpy as np

from persam_ray.demo.bodies import Body
from persam_ray.demo.canvas import Canvas, Flat, Piece
from persam_ray.demo.fabrics import Fabric
from persam_ray.demo.shapes import Outline, Point


class Layer(IntEnum):
    """From back to front; pieces of one layer are painted in the order in which they were made."""

    BEHIND = auto()
    LINING = auto()
    FAR_ARM = auto()
    BODY = auto()
    HOSE = auto()
    SHOE = auto()
    TUCKED_TOP = auto()
    BOTTOM = auto()
    BOOT = auto()
    LOOSE_TOP = auto()
    BELT = auto()
    NECKLACE = auto()
    OUTER = auto()
    BAG_BEHIND_ARM = auto()
    ARM = auto()
    BAG = auto()
    SCARF = auto()
    FACE = auto()
    HAIR = auto()
    GLASSES = auto()
    HAT = auto()
    RAISED_ARM = auto()


@dataclass(frozen=True)
class Sewn:
    """A piece of a figure: which object it belongs to and where in the order of layers it lies.

    Attributes:
        label: A class of the index map, or any other name for an object without a class.
        part: Tells objects of the same label apart (left and right shoe); pieces of one label and part are one object.
    """

    layer: Layer
    label: str
    piece: Piece
    part: str = ""


Figure = list[Sewn]

BODY_PARTS = frozenset({"skin", "face", "hair"})
"""Labels of things that are not worn."""


class Tailor:
    """Makes pieces for one body: fills in the frame of the pattern and the roundness."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.figure: Figure = []

    def add(
        self,
        layer: Layer,
        label: str,
        outlines: Iterable[Outline],
        fabric: Fabric | float,
        *,
        part: str = "",
        roundness: float = 0.03,
        shadow: float = 0.6,
        clip: bool = False,
        origin: Point | None = None,
        angle: float = 0.0,
    ) -> None:
        """Add a piece; `roundness` is a share of the height, `angle` the direction of the pattern's v."""
        frame = Flat(self.body.neck if origin is None else origin, self.body.height_px, angle)
        piece = Piece(tuple(outlines), fabric, frame, self.body.px(roundness), 0.0 if clip else shadow, clip)
        self.figure.append(Sewn(layer, label, piece, part))

    def detail(self, layer: Layer, label: str, outlines: Iterable[Outline], fabric: Fabric, *, part: str = "") -> None:
        """Add something that lies flat on an object: a button, a print."""
        self.add(layer, label, outlines, fabric, part=part, roundness=0.0, clip=True)

    def mark(self, layer: Layer, label: str, outlines: Iterable[Outline], factor: float, *, part: str = "") -> None:
        """Make part of an object darker or brighter by a factor: a seam, a pocket, a pleat."""
        self.add(layer, label, outlines, factor, part=part, roundness=0.0, clip=True)


def arm_layer(body: Body, side: int) -> Layer:
    """Return the layer of an arm and of the sleeves on it."""
    arm = body.arms[side]
    return Layer.FAR_ARM if arm.behind else Layer.RAISED_ARM if arm.pose == "raised" else Layer.ARM


def direction_of(path_from: Point, path_to: Point) -> float:
    """Return the angle of a limb for `Tailor.add`: 0 straight down."""
    x, y = path_to - path_from
    return float(np.arctan2(-x, y))


def silhouette(figure: Figure) -> tuple[Outline, ...]:
    """Return all outlines of a figure."""
    return tuple(outline for sewn in figure for outline in sewn.piece.outlines if not sewn.piece.clip)


def paint_figure(canvas: Canvas, figure: Figure, *, group_label: str, parts: bool) -> dict[int, str]:
    """Paint a figure from back to front.

    Args:
        canvas: Canvas to paint on; it is changed.
        figure: Pieces of the figure, in any order.
        group_label: Name of the figure as a group.
        parts: Make every garment and body part an object of its own; otherwise the figure is one object.

    Returns:
        Number to label of the objects painted.
    """
    group = canvas.new_group(group_label)
    objects: dict[tuple[str, str], int] = {}
    fabrics: dict[str, Fabric | None] = {}
    for sewn in sorted(figure, key=lambda sewn: sewn.layer):
        name = (sewn.label, sewn.part) if parts else (group_label, "")
        if name not in objects:
            objects[name] = canvas.new_object(name[0], group)
        piece = sewn.piece
        if parts and sewn.label not in BODY_PARTS and isinstance(piece.fabric, Fabric) and not piece.clip:
            if sewn.label not in fabrics:
                fabrics[sewn.label] = canvas.other_fabric()
            piece = replace(piece, fabric=fabrics[sewn.label] or piece.fabric)
        canvas.paint(objects[name], piece)
    return {number: label for (label, _), number in objects.items()}
