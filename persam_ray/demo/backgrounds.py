"""The places: a street, a wall, a shop window, a park, a room. Each paints a whole canvas."""

import numpy as np

from persam_ray.demo import props
from persam_ray.demo.buildings import Edges, facade, graffiti, opening
from persam_ray.demo.canvas import Canvas
from persam_ray.demo.cars import car
from persam_ray.demo.chance import happens, pick
from persam_ray.demo.fabrics import plain
from persam_ray.demo.palettes import (  # fmt: skip
    ACCENTS,
    DARKS,
    FOLIAGE,
    LEATHERS,
    NEUTRALS,
    PAINTS,
    STONES,
    contrasting,
    mixed,
    rgb,
    varied,
)
from persam_ray.demo.shapes import Point, points, rectangle
from persam_ray.demo.surfaces import (
    ASPHALTS,
    PAVEMENTS,
    SKIES,
    View,
    gradient,
    lay_ground,
    pavement,
    tiles,
    wall_fabric,
)


def paint_background(canvas: Canvas, rng: np.random.Generator, kind: str, view: View) -> None:
    """Paint one of the places of `PLACES`."""
    PLACES[kind](canvas, rng, view)


def _street(canvas: Canvas, rng: np.random.Generator, view: View) -> None:
    """Paint facades on both sides of a receding street, parked cars, posts and trees."""
    height, width = canvas.size_hw
    sky = varied(rng, SKIES)
    gradient(canvas, "sky", (-2, -2, width + 2, view.far_y + 2), sky, mixed(sky, rgb("f3efe8"), 0.6))
    left = -float(rng.uniform(0, 0.2)) * width
    while left < width:
        right = left + float(rng.uniform(0.25, 0.6)) * width
        if happens(rng, 0.88):
            roof = view.far_y - float(rng.uniform(0.35, 1.3)) * height
            facade(canvas, rng, (left, roof, right, view.far_y + 1))
        else:
            props.foliage(
                canvas,
                rng,
                np.array([(left + right) / 2, view.far_y - 0.12 * height]),
                ((right - left) * 0.5, 0.2 * height),
            )
        left = right
    road = plain(varied(rng, ASPHALTS), folds=0.03, grain=0.06)
    lay_ground(canvas, rng, "road", road, view, view.far_y)
    curb_y = view.far_y + float(rng.uniform(0.2, 0.5)) * (view.feet_y - view.far_y)
    for _ in range(int(rng.integers(0, 4))):
        y = float(rng.uniform(0.4, 1.0)) * (curb_y - view.far_y) + view.far_y
        car(canvas, rng, np.array([rng.uniform(-0.1, 1.1) * width, y]), view.meter_px(y))
    if happens(rng, 0.7):
        lay_ground(canvas, rng, "pavement", pavement(rng), view, curb_y)
        curb = rectangle(-2, curb_y - 0.012 * height, width + 2, curb_y)
        canvas.fill_new("curb", 0, [curb], varied(rng, PAVEMENTS) * np.float32(0.85))
    else:
        _road_marks(canvas, rng, view)
    _street_furniture(canvas, rng, view, curb_y)


def _road_marks(canvas: Canvas, rng: np.random.Generator, view: View) -> None:
    """Paint the stripes of a crossing or a lane, running to the horizon."""
    height, width = canvas.size_hw
    vanish = np.array([rng.uniform(0.1, 0.9) * width, view.horizon_y])
    number = canvas.new_object("road marking")
    for x in np.arange(-1.0, 2.0, 0.55) if happens(rng, 0.4) else [rng.uniform(-0.6, 1.6)]:
        low_left, low_right = np.array([x * width, height + 4.0]), np.array([(x + 0.14) * width, height + 4.0])
        near, far = 0.05, float(rng.uniform(0.5, 0.7))
        corners = (low_left + (vanish - low_left) * near, low_right + (vanish - low_right) * near,
                   low_right + (vanish - low_right) * far, low_left + (vanish - low_left) * far)  # fmt: skip
        canvas.fill(number, [points(*corners)], rgb("d9d6cd"))


def _street_furniture(canvas: Canvas, rng: np.random.Generator, view: View, curb_y: float) -> None:
    """Paint posts, signs, trees and a railing along the curb."""
    _, width = canvas.size_hw
    if happens(rng, 0.2):
        props.fence(canvas, rng, np.array([-2.0, curb_y]), np.array([width + 2.0, curb_y]), view.meter_px(curb_y) * 1.0)
    for _ in range(int(rng.integers(0, 4))):
        y = curb_y + float(rng.uniform(0, 0.25)) * (view.feet_y - curb_y)
        ground = np.array([rng.uniform(0, 1) * width, y])
        if happens(rng, 0.3):
            props.tree(canvas, rng, ground, view.meter_px(y))
        else:
            props.pole(canvas, rng, ground, view.meter_px(y), sign=happens(rng, 0.45))


def _wall(canvas: Canvas, rng: np.random.Generator, view: View) -> None:
    """Paint a wall behind a pavement, with doors, windows, posters, painted shapes, laundry or a flag."""
    height, width = canvas.size_hw
    fabric = wall_fabric(rng)
    number = props.surface(canvas, "wall", rectangle(-2, -2, width + 2, view.far_y), fabric, unit_px=view.person_px)
    meter = view.meter_px(view.far_y)
    if happens(rng, 0.3):
        graffiti(canvas, rng, number, view)
    for _ in range(int(rng.integers(0, 3))):
        opening(canvas, rng, view, door=happens(rng, 0.5))
    for _ in range(int(rng.integers(0, 4))):
        corner = np.array([rng.uniform(-0.05, 0.9) * width, view.far_y - meter * rng.uniform(1.2, 2.6)])
        props.poster(canvas, rng, corner, (meter * float(rng.uniform(0.4, 0.7)), meter * float(rng.uniform(0.6, 0.9))))
    if happens(rng, 0.25):
        y = view.far_y - meter * float(rng.uniform(1.9, 2.6))
        props.laundry(canvas, rng, np.array([-4.0, y]), np.array([width + 4.0, y + rng.normal(0, 8)]), meter * 0.6)
    elif happens(rng, 0.25):
        props.flag(canvas, rng, np.array([rng.uniform(0.05, 0.8) * width, view.far_y - meter * 2.3]), meter * 0.9)
    lay_ground(canvas, rng, "pavement", pavement(rng), view, view.far_y)
    canvas.darken([rectangle(-2, view.far_y - 1, width + 2, view.far_y + 0.01 * height)], 0.4, 0.008 * height)


def _shop(canvas: Canvas, rng: np.random.Generator, view: View) -> None:
    """Paint a shop front: a window, perhaps a door, a sign above and an awning."""
    width = canvas.size_hw[1]
    meter = view.meter_px(view.far_y)
    wood = varied(rng, DARKS + ACCENTS + STONES)
    front = rectangle(-2, -2, width + 2, view.far_y)
    props.surface(canvas, "shop front", front, plain(wood, folds=0.02), unit_px=view.person_px)
    left = float(rng.uniform(-0.15, 0.12)) * width
    wide = float(rng.uniform(0.55, 1.1)) * width
    top, low = view.far_y - meter * 2.35, view.far_y - meter * 0.4
    _display(canvas, rng, (left, top, left + wide, low), meter)
    for x in (left, left + wide / 2, left + wide):
        bar = rectangle(x - 0.03 * meter, top, x + 0.03 * meter, low)
        canvas.fill_new("window frame", 0, [bar], wood * np.float32(0.7))
    if left + wide < width * 0.8:
        opening(canvas, rng, view, door=True)
    board = rectangle(left, top - 0.5 * meter, left + wide, top - 0.08 * meter)
    paint = plain(contrasting(rng, wood, DARKS + ACCENTS + NEUTRALS))
    sign = props.surface(canvas, "shop sign", board, paint, unit_px=view.person_px)
    text_corner = np.array([left + 0.3 * meter, top - 0.4 * meter])
    props.letters(canvas, sign, rng, text_corner, (wide * 0.55, 0.22 * meter), rgb("f0ece2"))
    if happens(rng, 0.55):
        props.awning(canvas, rng, np.array([left, top - 0.05 * meter]), (wide, meter * 0.42))
    lay_ground(canvas, rng, "pavement", pavement(rng), view, view.far_y)


def _display(canvas: Canvas, rng: np.random.Generator, box: Edges, meter: float) -> None:
    """Paint a shop window, dark or lit inside, with dressed forms and posters."""
    left, top, right, low = box
    dim = mixed(rgb("2a2c30"), rgb("e8d8b8"), float(rng.uniform(0.05, 0.75)))
    gradient(canvas, "shop window", box, dim, dim * np.float32(0.75))
    for x in np.arange(left + 0.4 * meter, right - 0.3 * meter, 0.85 * meter):
        if happens(rng, 0.55):
            props.mannequin(canvas, rng, np.array([x, low]), meter * float(rng.uniform(1.4, 1.6)))
        elif happens(rng, 0.4):
            props.poster(canvas, rng, np.array([x - 0.25 * meter, top + 0.3 * meter]), (0.5 * meter, 0.7 * meter))


def _park(canvas: Canvas, rng: np.random.Generator, view: View) -> None:
    """Paint sky, trees, grass with a path, a bench, a railing."""
    height, width = canvas.size_hw
    sky = varied(rng, SKIES)
    gradient(canvas, "sky", (-2, -2, width + 2, view.far_y + 2), sky, mixed(sky, rgb("f3efe8"), 0.6))
    for x in np.arange(-0.05, 1.1, 0.16):
        center = np.array([(x + rng.normal(0, 0.03)) * width, view.far_y - rng.uniform(0.05, 0.16) * height])
        props.foliage(canvas, rng, center, (0.15 * width, float(rng.uniform(0.09, 0.2)) * height))
    lay_ground(
        canvas, rng, "grass", plain(varied(rng, FOLIAGE) * np.float32(1.2), folds=0.1, grain=0.09), view, view.far_y
    )
    if happens(rng, 0.75):
        vanish, low = float(rng.uniform(0.2, 0.8)) * width, float(rng.uniform(0.3, 0.7)) * width
        path = points(
            (vanish - 4, view.far_y),
            (vanish + 4, view.far_y),
            (low + width * 0.6, height + 2),
            (low - width * 0.6, height + 2),
        )
        props.surface(
            canvas, "path", path, plain(varied(rng, PAVEMENTS), folds=0.04, grain=0.06), unit_px=view.person_px
        )
    for _ in range(int(rng.integers(1, 4))):
        y = view.far_y + float(rng.uniform(0.02, 0.45)) * (view.feet_y - view.far_y)
        kind = pick(rng, {props.tree: 5, props.bench: 3})
        kind(canvas, rng, np.array([rng.uniform(0, 1) * width, y]), view.meter_px(y))
    if happens(rng, 0.3):
        y = view.far_y + 0.15 * (view.feet_y - view.far_y)
        props.fence(canvas, rng, np.array([-2.0, y]), np.array([width + 2.0, y]), view.meter_px(y) * 1.1)
    elif happens(rng, 0.25):
        y = view.far_y + 0.3 * (view.feet_y - view.far_y)
        line = y - 1.9 * view.meter_px(y)
        props.laundry(canvas, rng, np.array([-4.0, line]), np.array([width + 4.0, line]), view.meter_px(y) * 0.6)


def _room(canvas: Canvas, rng: np.random.Generator, view: View) -> None:
    """Paint a room: wall, floor boards, pictures, a curtain, a clothes rail."""
    _, width = canvas.size_hw
    meter = view.meter_px(view.far_y)
    paint = varied(rng, PAINTS)
    props.surface(
        canvas, "wall", rectangle(-2, -2, width + 2, view.far_y), plain(paint, folds=0.03), unit_px=view.person_px
    )
    for _ in range(int(rng.integers(1, 4))):
        corner = np.array([rng.uniform(0, 0.85) * width, view.far_y - meter * rng.uniform(1.7, 2.5)])
        props.poster(canvas, rng, corner, (meter * float(rng.uniform(0.35, 0.7)), meter * float(rng.uniform(0.4, 0.8))))
    if happens(rng, 0.4):
        opening(canvas, rng, view, door=happens(rng, 0.6))
    if happens(rng, 0.5):
        side = float(rng.choice([-0.05, 0.72])) * width
        curtain = rectangle(side, -2, side + 0.33 * width, view.far_y - 0.03 * meter)
        props.surface(
            canvas, "curtain", curtain, props.cloth(rng), unit_px=view.person_px * 0.8, roundness=0.05 * meter
        )
    wood = varied(rng, (*LEATHERS[2:5], "c4a27a", "9c7a56", "b8b2a8"))
    boards = tiles(rng, wood, rows=1, columns=4, joint=0.6, span=0.9, bond=False)
    lay_ground(canvas, rng, "floor", boards, view, view.far_y)
    skirting = rectangle(-2, view.far_y - 0.1 * meter, width + 2, view.far_y)
    canvas.fill_new("skirting board", 0, [skirting], paint * np.float32(1.1))
    if happens(rng, 0.55):
        _stand(canvas, rng, view)


def _stand(canvas: Canvas, rng: np.random.Generator, view: View) -> None:
    """Paint a clothes rail or a dressed form on a room's floor."""
    y = view.far_y + 0.1 * (view.feet_y - view.far_y)
    ground: Point = np.array([float(rng.choice([0.1, 0.25, 0.75, 0.9])) * canvas.size_hw[1], y])
    if happens(rng, 0.6):
        props.clothes_rail(canvas, rng, ground, view.meter_px(y))
    else:
        props.mannequin(canvas, rng, ground, view.meter_px(y) * 1.6)


PLACES = {"street": _street, "wall": _wall, "shop": _shop, "park": _park, "room": _room}
