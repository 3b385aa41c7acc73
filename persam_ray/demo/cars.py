"""Parked cars, seen from their side."""

from dataclasses import dataclass

import numpy as np

from persam_ray.demo.canvas import Canvas, Flat, Piece
from persam_ray.demo.chance import happens
from persam_ray.demo.fabrics import plain
from persam_ray.demo.palettes import VEHICLES, mixed, rgb, varied
from persam_ray.demo.props import GLASS, RUBBER, STEEL
from persam_ray.demo.shapes import Outline, Point, ellipse, smooth

HULL = (
    (-1.9, 0.25), (-2.15, 0.32), (-2.2, 0.72), (-2.0, 0.92), (-1.3, 1.0), (0.0, 1.0), (1.8, 1.0), (2.12, 0.85),
    (2.2, 0.35), (2.0, 0.25), (0.0, 0.24),
)  # fmt: skip
DOOR_GAP = ((-0.02, 0.35), (-0.02, 1.0), (0.0, 1.0), (0.0, 0.35))
AXLES = (-1.35, 1.35)
LIGHTS = {-2.1: "f0e8d0", 2.1: "8a1c1c"}
"""Meters from the car's middle and above the ground; the front is at negative x. A limousine's roof is at 1.42 m."""


@dataclass(frozen=True)
class Parked:
    """Where a car stands: its middle on the ground, the scale, and 1 or -1 for the way it looks."""

    ground: Point
    meter_px: float
    sign: float

    def at(self, *places_m: tuple[float, float]) -> Outline:
        """Return places of the car in pixels of the photo."""
        return self.ground + self.meter_px * np.array([(self.sign * x, -y) for x, y in places_m])


def car(canvas: Canvas, rng: np.random.Generator, ground: Point, meter_px: float) -> None:
    """Paint a parked car, its middle at `ground`."""
    group = canvas.new_group("car")
    paint = varied(rng, VEHICLES)
    parked = Parked(ground, meter_px, 1.0 if happens(rng, 0.5) else -1.0)
    roof = 1.75 if happens(rng, 0.35) else 1.42
    cabin = (
        (-1.45, 0.95), (-0.75, roof - 0.05), (-0.4, roof), (0.9, roof), (1.3, roof - 0.06), (1.95, 1.0), (0.2, 0.9),
    )  # fmt: skip
    panes = (
        ((-1.15, 1.0), (-0.68, roof - 0.14), (-0.05, roof - 0.1), (-0.05, 1.0)),
        ((0.05, 1.0), (0.05, roof - 0.1), (0.9, roof - 0.12), (1.5, 1.02)),
    )
    canvas.darken([ellipse(ground, 2.2 * meter_px, 0.16 * meter_px)], 0.55, 0.08 * meter_px)
    body = canvas.new_object("car body", group)
    hull = (smooth(parked.at(*HULL), steps=4), smooth(parked.at(*cabin), steps=4))
    canvas.paint(body, Piece(hull, plain(paint, folds=0.0, gloss=0.4), Flat(ground, meter_px), 0.3 * meter_px))
    for pane in panes:
        tint = mixed(GLASS, rgb("9fb2c6"), float(rng.uniform(0, 0.5)))
        canvas.fill_new("car window", group, [parked.at(*pane)], tint)
    canvas.fill(body, [parked.at(*DOOR_GAP)], paint * np.float32(0.6))
    _lights_and_wheels(canvas, parked, group)


def _lights_and_wheels(canvas: Canvas, parked: Parked, group: int) -> None:
    meter_px = parked.meter_px
    for x, tone in LIGHTS.items():
        lamp = ellipse(parked.at((x, 0.72))[0], 0.10 * meter_px, 0.09 * meter_px)
        canvas.fill_new("car light", group, [lamp], rgb(tone))
    for x in AXLES:
        wheel = canvas.new_object("wheel", group)
        hub = parked.at((x, 0.32))[0]
        for radius, colour in ((0.33, RUBBER), (0.20, rgb("9a9c9f")), (0.07, STEEL)):
            canvas.fill(wheel, [ellipse(hub, radius * meter_px, radius * meter_px)], colour)
