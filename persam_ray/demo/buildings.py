"""Facades, small shops, doors and windows."""

import numpy as np

from persam_ray.demo import props
from persam_ray.demo.canvas import Canvas
from persam_ray.demo.chance import happens
from persam_ray.demo.fabrics import plain
from persam_ray.demo.palettes import ACCENTS, DARKS, PAINTS, STONES, mixed, rgb, varied
from persam_ray.demo.shapes import rectangle, tube
from persam_ray.demo.surfaces import View, tiles

Edges = tuple[float, float, float, float]
"""Left, top, right, bottom, pixels."""


def facade(canvas: Canvas, rng: np.random.Generator, box: Edges) -> None:
    """Paint a building: floors of windows above, perhaps a shop with awning and sign below."""
    left, roof, right, base = box
    colour = varied(rng, STONES)
    group = canvas.new_group("building")
    unit = canvas.size_hw[0] * 0.5
    fabric = plain(colour, folds=0.03, grain=0.03)
    if happens(rng, 0.35):
        fabric = tiles(rng, colour, rows=6, columns=3, joint=1.15, span=0.12, bond=True)
    props.surface(canvas, "facade", rectangle(left, roof, right, base), fabric, unit_px=unit, group=group)
    floor = canvas.size_hw[0] * float(rng.uniform(0.14, 0.2))
    columns = max(int((right - left) / (floor * 0.8)), 1)
    wide, tall = (right - left) / columns, floor
    glass = mixed(props.GLASS, rgb("a9c1d9"), float(rng.uniform(0, 0.5)))
    y = base - floor * 2.1
    while y > roof - tall * 0.5 and y > -tall:
        for k in range(columns):
            x = left + (k + 0.25) * wide
            window = canvas.new_object("window", group)
            canvas.fill(
                window, [rectangle(x - 1, y - 1, x + wide * 0.5 + 1, y + tall * 0.62 + 1)], colour * np.float32(1.15)
            )
            canvas.fill(
                window, [rectangle(x, y, x + wide * 0.5, y + tall * 0.62)], glass * np.float32(rng.uniform(0.7, 1.2))
            )
            canvas.fill(
                window, [rectangle(x + wide * 0.24, y, x + wide * 0.26, y + tall * 0.62)], colour * np.float32(1.1)
            )
        y -= tall
    if happens(rng, 0.7):
        shop_front(canvas, rng, (left + wide * 0.1, base - floor * 0.9, right - wide * 0.1, base))
    if happens(rng, 0.2):
        props.flag(canvas, rng, np.array([left + wide, base - floor * 1.9]), floor * 0.7)


def shop_front(canvas: Canvas, rng: np.random.Generator, box: Edges) -> None:
    """Paint a small shop at the foot of a building."""
    left, top, right, base = box
    canvas.fill_new(
        "shop window",
        0,
        [rectangle(left, top, right, base)],
        mixed(props.GLASS, rgb("e3c99a"), float(rng.uniform(0, 0.5))),
    )
    board = canvas.new_object("shop sign")
    tall = (base - top) * 0.22
    ground = varied(rng, DARKS + ACCENTS)
    canvas.fill(board, [rectangle(left, top - tall, right, top)], ground)
    props.letters(
        canvas,
        board,
        rng,
        np.array([left + tall, top - tall * 0.75]),
        ((right - left) * 0.6, tall * 0.5),
        rgb("f0ece2"),
    )
    if happens(rng, 0.5):
        props.awning(canvas, rng, np.array([left, top]), (right - left, (base - top) * 0.3))


def opening(canvas: Canvas, rng: np.random.Generator, view: View, *, door: bool) -> None:
    """Paint a door or a window in a wall."""
    width = canvas.size_hw[1]
    meter = view.meter_px(view.far_y)
    left = float(rng.uniform(-0.1, 0.9)) * width
    wide = meter * float(rng.uniform(0.8, 1.2))
    low = view.far_y if door else view.far_y - meter * 0.9
    top = view.far_y - meter * float(rng.uniform(2.0, 2.4))
    group = canvas.new_group("door" if door else "window")
    frame = varied(rng, PAINTS + DARKS)
    rim = 0.07 * meter
    canvas.fill_new(
        "frame",
        group,
        [rectangle(left - rim, top - rim, left + wide + rim, low + (0 if door else rim))],
        frame,
    )
    tone = varied(rng, ACCENTS + DARKS) if door else mixed(props.GLASS, rgb("a9c1d9"), float(rng.uniform(0, 0.6)))
    panel = canvas.new_object("door" if door else "window", group)
    canvas.fill(panel, [rectangle(left, top, left + wide, low)], tone)
    for k in (0.08, 0.54):
        pane = rectangle(left + wide * k, top + 0.1 * meter, left + wide * (k + 0.38), low - 0.15 * meter)
        canvas.fill(panel, [pane], tone * np.float32(0.85 if door else 1.12))


def graffiti(canvas: Canvas, rng: np.random.Generator, number: int, view: View) -> None:
    """Paint thick coloured strokes on a wall; they belong to it."""
    _, width = canvas.size_hw
    meter = view.meter_px(view.far_y)
    for _ in range(int(rng.integers(3, 8))):
        start = np.array([rng.uniform(0, width), view.far_y - rng.uniform(0.4, 2.0) * meter])
        knots = start + np.cumsum(rng.normal(0, 0.3 * meter, (5, 2)), axis=0)
        canvas.fill(number, tube(knots, [meter * float(rng.uniform(0.04, 0.11))] * 5), varied(rng, ACCENTS))
