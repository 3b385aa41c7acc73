"""The view of a scene (horizon and ground), and the materials of grounds and walls."""

from dataclasses import dataclass

import cv2
import numpy as np

from persam_ray.demo.canvas import Canvas, Ground, Piece
from persam_ray.demo.chance import happens, pick
from persam_ray.demo.fabrics import TILE_PX, Fabric, plain
from persam_ray.demo.palettes import PAINTS, STONES, Colour, mixed, varied
from persam_ray.demo.shapes import rectangle

SKIES = ("a9c4dc", "c9d6de", "dfe3e4", "8fb3d6", "d9d2c6")
ASPHALTS = ("6a6b6d", "7d7c7a", "55565a", "8c8985")
PAVEMENTS = ("a8a39b", "b9b2a6", "8f8c86", "c4bcae", "9d8f82")
PERSON_M = 1.7


@dataclass(frozen=True)
class View:
    """How a scene is seen.

    Attributes:
        horizon_y: Row of the horizon, pixels: the camera's height, about a person's chest or hip.
        far_y: Row where the ground ends, at a wall or in the distance.
        person_px: Height of the main person.
        feet_y: Row of the main person's soles.
    """

    horizon_y: float
    far_y: float
    person_px: float
    feet_y: float

    def meter_px(self, ground_y: float) -> float:
        """Return the pixels of one meter for what stands on the ground at this row."""
        return self.person_px / PERSON_M * (ground_y - self.horizon_y) / (self.feet_y - self.horizon_y)


def random_view(rng: np.random.Generator, kind: str, person_px: float, feet_y: float) -> View:
    """Return a view with the horizon between the person's hips and eyes and the ground's end below it."""
    horizon = feet_y - person_px * float(rng.uniform(0.50, 0.86))
    reach = rng.uniform(0.05, 0.18) if kind in {"street", "park"} else rng.uniform(0.45, 0.88)
    return View(horizon, horizon + float(reach) * (feet_y - horizon) + 2, person_px, feet_y)


def tiles(
    rng: np.random.Generator, colour: Colour, *, rows: int, columns: int, joint: float, span: float, bond: bool
) -> Fabric:
    """Return bricks, slabs or planks: blocks of slightly varied colour with joints; `bond` shifts every other row."""
    tile = np.zeros((TILE_PX, TILE_PX, 3), dtype=np.float32)
    tall, wide = TILE_PX // rows, TILE_PX // columns
    for row in range(rows):
        for column in range(columns + 1):
            tone = colour * np.float32(rng.normal(1.0, 0.07))
            x = column * wide - (wide // 2 if bond and row % 2 else 0)
            cv2.rectangle(
                tile, (x, row * tall), (x + wide - 3, row * tall + tall - 3), tuple(float(c) for c in tone), -1
            )
    gaps = tile.sum(axis=2) == 0
    tile[gaps] = colour * np.float32(joint)
    return Fabric(np.clip(tile, 0, 255), span=span, folds=0.0, grain=0.05)


def lay_ground(canvas: Canvas, rng: np.random.Generator, label: str, fabric: Fabric, view: View, top_y: float) -> None:
    """Paint the ground from a row down to the lower border, in perspective."""
    height, width = canvas.size_hw
    camera_m = (view.feet_y - view.horizon_y) / view.meter_px(view.feet_y)
    frame = Ground(view.horizon_y, width * float(rng.uniform(0.2, 0.8)), camera_m, focal_px=1.6 * height)
    area = rectangle(-2, top_y, width + 2, height + 2)
    canvas.paint(canvas.new_object(label), Piece((area,), fabric, frame))


def pavement(rng: np.random.Generator) -> Fabric:
    """Return slabs, or plain concrete."""
    colour = varied(rng, PAVEMENTS)
    if happens(rng, 0.4):
        return plain(colour, folds=0.03, grain=0.05)
    return tiles(rng, colour, rows=2, columns=2, joint=0.72, span=float(rng.uniform(0.8, 1.6)), bond=happens(rng, 0.5))


def gradient(canvas: Canvas, label: str, box: tuple[float, float, float, float], top: Colour, low: Colour) -> int:
    """Paint a rectangle (left, top, right, bottom) whose colour changes downwards."""
    left, upper, right, lower = box
    number = canvas.new_object(label)
    edges = np.linspace(upper, lower, 25)
    for k in range(24):
        canvas.fill(number, [rectangle(left, edges[k], right, edges[k + 1] + 0.5)], mixed(top, low, (k + 0.5) / 24))
    return number


def wall_fabric(rng: np.random.Generator) -> Fabric:
    """Return bricks, stone blocks, planks, or paint."""
    kind = pick(rng, {"brick": 5, "blocks": 2, "paint": 3, "shutter": 1})
    if kind == "brick":
        colour = varied(rng, ("a5533f", "8a4a3a", "b5745c", "c9bda9", "6f3f35", "dcd7cc"))
        return tiles(
            rng,
            colour,
            rows=4,
            columns=2,
            joint=float(rng.choice([0.7, 1.25])),
            span=float(rng.uniform(0.14, 0.2)),
            bond=True,
        )
    if kind == "blocks":
        return tiles(
            rng, varied(rng, STONES), rows=2, columns=1, joint=0.75, span=float(rng.uniform(0.35, 0.6)), bond=True
        )
    if kind == "shutter":
        return tiles(rng, varied(rng, PAINTS), rows=4, columns=1, joint=0.7, span=0.12, bond=False)
    return plain(varied(rng, PAINTS), folds=0.05, grain=0.04)
