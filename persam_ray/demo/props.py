"""Props of a scene: signs, poles, trees, laundry, flags, mannequins. They are painted at once, back to front.

A position is the point where a thing touches the ground or hangs. Positions and sizes are in pixels; the scene says how
many pixels a meter has.
"""

import numpy as np

from persam_ray.demo.canvas import Canvas, Flat, Piece
from persam_ray.demo.chance import happens, pick
from persam_ray.demo.fabrics import Fabric, plain, woven
from persam_ray.demo.palettes import (  # fmt: skip
    ACCENTS,
    BLUES,
    BRIGHTS,
    DARKS,
    FOLIAGE,
    LEATHERS,
    NEUTRALS,
    Colour,
    contrasting,
    rgb,
    varied,
)
from persam_ray.demo.shapes import Outline, Point, between, ellipse, points, rectangle, smooth, tube, xy

CLOTH_PATTERNS = {"plain": 30.0, "stripes": 25.0, "checks": 15.0, "floral": 12.0, "dots": 8.0, "print": 10.0}
GLASS = rgb("39434a")
RUBBER = rgb("1d1d1f")
STEEL = rgb("55585c")


def cloth(rng: np.random.Generator) -> Fabric:
    """Return a clothes fabric, for props that look like clothes."""
    return woven(rng, CLOTH_PATTERNS, varied(rng, ACCENTS + BRIGHTS + BLUES + NEUTRALS))


def surface(
    canvas: Canvas,
    label: str,
    outline: Outline,
    fabric: Fabric,
    *,
    unit_px: float,
    group: int = 0,
    roundness: float = 0.0,
) -> int:
    """Paint a flat thing as an object of its own; return its number."""
    number = canvas.new_object(label, group)
    frame = Flat(outline.min(axis=0), unit_px)
    canvas.paint(number, Piece((outline,), fabric, frame, roundness))
    return number


def pole(canvas: Canvas, rng: np.random.Generator, ground: Point, meter_px: float, *, sign: bool) -> None:
    """Paint a lamp post, or a post with a traffic sign."""
    group = canvas.new_group("pole")
    height = float(rng.uniform(2.2, 2.8) if sign else rng.uniform(3.5, 6.0))
    top = ground - xy(0, height * meter_px)
    half = meter_px * float(rng.uniform(0.035, 0.07))
    post = rectangle(ground[0] - half, top[1], ground[0] + half, ground[1])
    number = canvas.new_object("pole", group)
    canvas.paint(
        number,
        Piece((post,), plain(varied(rng, (*DARKS, "8f9397", "5a5d60")), folds=0), Flat(ground, meter_px), half),
    )
    if not sign:
        lamp = ellipse(top, 0.22 * meter_px, 0.26 * meter_px)
        canvas.fill_new("lamp", group, [lamp], rgb("efe9d8"))
        return
    plate = canvas.new_object("sign", group)
    tone = varied(rng, ("b3262b", "1f4fa3", "e3c04f", "2f7a4a"))
    radius = 0.32 * meter_px
    board = ellipse(top, radius, radius) if happens(rng, 0.6) else rectangle(*(top - radius), *(top + radius))
    canvas.fill(plate, [board], tone)
    canvas.fill(
        plate,
        [rectangle(*(top - xy(radius * 0.6, radius * 0.18)), *(top + xy(radius * 0.6, radius * 0.18)))],
        rgb("f3f1ec"),
    )


def tree(canvas: Canvas, rng: np.random.Generator, ground: Point, meter_px: float) -> None:
    """Paint a tree: trunk and clumps of leaves, darker below."""
    group = canvas.new_group("tree")
    height = float(rng.uniform(3.5, 6.0)) * meter_px
    crown = ground - xy(0, height)
    trunk = tube(
        np.array([ground, between(ground, crown, 0.7) + xy(rng.normal(0, 0.1) * meter_px, 0)]),
        (0.16 * meter_px, 0.09 * meter_px),
    )
    number = canvas.new_object("trunk", group)
    canvas.paint(
        number,
        Piece(
            trunk,
            plain(varied(rng, ("4a3a2c", "5c4a38", "6b6258")), grain=0.15),
            Flat(ground, meter_px),
            0.1 * meter_px,
        ),
    )
    foliage(canvas, rng, crown, (1.7 * meter_px, 1.5 * meter_px), group)


def foliage(
    canvas: Canvas, rng: np.random.Generator, center: Point, radius_xy: tuple[float, float], group: int = 0
) -> None:
    """Paint leaves as a mass of overlapping clumps, the upper ones in the light."""
    number = canvas.new_object("leaves", group)
    tone = varied(rng, FOLIAGE)
    size = max(radius_xy) * 0.17
    for step, shade in enumerate((0.62, 0.85, 1.05, 1.25)):
        count = 26
        turn, reach = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.uniform(0, 1, count)) * (1 - 0.13 * step)
        x = center[0] + radius_xy[0] * reach * np.cos(turn) + 0.05 * step * canvas.light.toward_xy[0] * radius_xy[0]
        y = center[1] + radius_xy[1] * reach * np.sin(turn) - 0.07 * step * radius_xy[1]
        clumps = [
            ellipse(
                np.array(xy), size * rng.uniform(0.5, 1.2), size * rng.uniform(0.4, 0.8), rng.uniform(0, 3), count=9
            )
            for xy in zip(x, y, strict=True)
        ]
        canvas.fill(number, clumps, np.clip(tone * np.float32(shade) + rng.normal(0, 4, 3), 5, 240).astype(np.float32))


def poster(canvas: Canvas, rng: np.random.Generator, corner: Point, size_px: tuple[float, float]) -> None:
    """Paint a poster: a picture of coloured shapes, or a pattern, with lines of text."""
    group = canvas.new_group("poster")
    width, height = size_px
    paper = varied(rng, BRIGHTS + ACCENTS)
    sheet = canvas.new_object("poster", group)
    canvas.fill(sheet, [rectangle(corner[0], corner[1], corner[0] + width, corner[1] + height)], paper)
    if happens(rng, 0.4):
        picture = rectangle(
            corner[0] + width * 0.1, corner[1] + height * 0.1, corner[0] + width * 0.9, corner[1] + height * 0.65
        )
        canvas.paint(canvas.new_object("picture", group), Piece((picture,), cloth(rng), Flat(corner, height)))
    else:
        for _ in range(3):
            middle = corner + rng.uniform((0.25, 0.2), (0.75, 0.6)) * (width, height)
            canvas.fill(
                sheet,
                [ellipse(middle, width * rng.uniform(0.1, 0.24), width * rng.uniform(0.1, 0.24))],
                contrasting(rng, paper, ACCENTS),
            )
    ink = contrasting(rng, paper, DARKS + BRIGHTS)
    letters(canvas, sheet, rng, corner + xy(width * 0.12, height * 0.74), (width * 0.76, height * 0.10), ink)
    letters(canvas, sheet, rng, corner + xy(width * 0.12, height * 0.88), (width * 0.5, height * 0.05), ink)


def letters(
    canvas: Canvas, number: int, rng: np.random.Generator, corner: Point, size_px: tuple[float, float], ink: Colour
) -> None:
    """Paint a line of made-up letters: uprights and crossbars."""
    width, height = size_px
    step, stroke = height * 0.8, height * 0.2
    marks = []
    for k in range(max(int(width / step), 1)):
        x, y = corner + xy(k * step, 0)
        marks.append(rectangle(x, y, x + stroke, y + height))
        if happens(rng, 0.7):
            bar = y + height * float(rng.choice([0.0, 0.4, 0.8]))
            marks.append(rectangle(x, bar, x + step * 0.7, bar + stroke))
    canvas.fill(number, marks, ink)


def awning(canvas: Canvas, rng: np.random.Generator, corner: Point, size_px: tuple[float, float]) -> None:
    """Paint a striped awning with a scalloped edge."""
    width, height = size_px
    count = int(rng.integers(6, 12))
    one = varied(rng, ACCENTS + BLUES)
    two = rgb("f0ece2") if happens(rng, 0.75) else one * np.float32(0.8)
    number = canvas.new_object("awning")
    for k in range(count):
        top_left, top_right = (corner + xy(width * (0.04 + 0.92 * j / count), 0) for j in (k, k + 1))
        left, right = (corner + xy(width * j / count, height) for j in (k, k + 1))
        scallop = ellipse(between(left, right, 0.5), width / count / 2, height * 0.16)
        canvas.fill(number, [points(top_left, top_right, right, left), scallop], one if k % 2 else two)


def tee_outline(top: Point, size: float) -> Outline:
    """Return a T-shirt spread out, its collar at `top`; `size` is its height in pixels."""
    half = ((0.14, 0.0), (0.36, 0.06), (0.58, 0.28), (0.44, 0.40), (0.34, 0.30), (0.34, 1.0))
    shape = [*half, *((-x, y) for x, y in half[::-1]), (0.0, 0.06)]
    return top + size * np.array(shape)


def trousers_outline(top: Point, size: float) -> Outline:
    """Return trousers hanging from `top`."""
    shape = ((-0.2, 0), (0.2, 0), (0.26, 1.0), (0.05, 1.0), (0.0, 0.35), (-0.05, 1.0), (-0.26, 1.0))
    return top + size * np.array(shape)


def laundry(canvas: Canvas, rng: np.random.Generator, left: Point, right: Point, size: float) -> None:
    """Paint a washing line with shirts, trousers and sheets."""
    line = canvas.new_object("line")
    sag = between(left, right, 0.5) + xy(0, size * 0.15)
    count = max(int(np.linalg.norm(right - left) / (size * 1.3)), 1)
    canvas.fill(line, tube(np.array([left, sag, right]), [max(size * 0.012, 0.5)] * 3), rgb("d8d5cc"))
    for k in range(count):
        t = (k + 0.5) / count
        top = between(left, right, t) + xy(0, size * 0.15 * 4 * t * (1 - t))
        kind = pick(rng, {"tee": 5, "trousers": 3, "sheet": 3})
        sheet = rectangle(top[0] - size * 0.45, top[1], top[0] + size * 0.45, top[1] + size * 0.9)
        outline = {"tee": tee_outline(top, size), "trousers": trousers_outline(top, size * 1.2), "sheet": sheet}[kind]
        surface(canvas, f"hanging {kind}", outline, cloth(rng), unit_px=size * 2.6, roundness=size * 0.06)


def flag(canvas: Canvas, rng: np.random.Generator, top: Point, size: float) -> None:
    """Paint a flag or banner of two or three bands that hangs out from a wall."""
    number = canvas.new_object("flag")
    bands = int(rng.integers(2, 4))
    for k in range(bands):
        t = np.linspace(0, 1, 8)
        wave = size * 0.05 * np.sin(t * 7 + 1)
        upper = np.column_stack([top[0] + wave + size * 0.55 * k / bands, top[1] + t * size])
        lower = upper[::-1] + xy(size * 0.55 / bands, 0)
        piece = Piece(
            (np.concatenate([upper, lower]),),
            plain(varied(rng, ACCENTS + BRIGHTS + BLUES), folds=0.2),
            Flat(top, size * 2),
        )
        canvas.paint(number, piece)


def mannequin(canvas: Canvas, rng: np.random.Generator, ground: Point, height: float) -> None:
    """Paint a dress form in clothes: a torso on a stand, without head and limbs."""
    group = canvas.new_group("mannequin")
    stand = rectangle(ground[0] - height * 0.012, ground[1] - height * 0.45, ground[0] + height * 0.012, ground[1])
    canvas.fill_new("stand", group, [stand, ellipse(ground, height * 0.12, height * 0.02)], rgb("3a3230"))
    half = [(0.05, 1.0), (0.06, 0.93), (0.16, 0.88), (0.15, 0.72), (0.105, 0.60), (0.15, 0.45)]
    long = happens(rng, 0.5)
    half += [(0.24, 0.20)] if long else [(0.15, 0.40)]
    shape = [*half, *((-x, y) for x, y in half[::-1])]
    outline = smooth(ground + height * np.array([(x, -y) for x, y in shape]), steps=3)
    canvas.fill_new(
        "neck",
        group,
        [ellipse(ground - xy(0, height), height * 0.045, height * 0.07)],
        rgb("d8cbb5"),
    )
    surface(
        canvas, "clothes on a form", outline, cloth(rng), unit_px=height * 1.4, group=group, roundness=height * 0.05
    )


def clothes_rail(canvas: Canvas, rng: np.random.Generator, ground: Point, meter_px: float) -> None:
    """Paint a rail on which shirts hang side by side."""
    group = canvas.new_group("rail")
    width, height = 1.5 * meter_px, 1.5 * meter_px
    left, top = ground[0] - width / 2, ground[1] - height
    bar = max(0.018 * meter_px, 0.6)
    frame = (
        rectangle(left, top - bar, left + width, top + bar), rectangle(left - bar, top, left + bar, ground[1]),
        rectangle(left + width - bar, top, left + width + bar, ground[1]),
    )  # fmt: skip
    canvas.fill_new("rail", group, frame, STEEL)
    x = left + 0.12 * meter_px
    while x < left + width - 0.12 * meter_px:
        slim, length = float(rng.uniform(0.08, 0.2)) * meter_px, float(rng.uniform(0.7, 1.1)) * meter_px
        side = points(
            (x, top + bar),
            (x + slim * 0.5, top + 0.05 * meter_px),
            (x + slim, top + 0.12 * meter_px),
            (x + slim, top + length),
            (x, top + length),
        )
        surface(canvas, "hanging clothes", side, cloth(rng), unit_px=1.7 * meter_px, group=group, roundness=slim * 0.3)
        x += slim * float(rng.uniform(0.8, 1.1))


def bench(canvas: Canvas, rng: np.random.Generator, ground: Point, meter_px: float) -> None:
    """Paint a park bench from the front."""
    number = canvas.new_object("bench")
    wood = varied(rng, LEATHERS)
    for level in (0.42, 0.55, 0.70, 0.84):
        slat = rectangle(
            ground[0] - 0.8 * meter_px,
            ground[1] - (level + 0.09) * meter_px,
            ground[0] + 0.8 * meter_px,
            ground[1] - level * meter_px,
        )
        canvas.fill(number, [slat], wood * np.float32(0.8 + 0.3 * level))
    for x in (-0.65, 0.65):
        leg = rectangle(
            ground[0] + (x - 0.04) * meter_px, ground[1] - 0.85 * meter_px, ground[0] + (x + 0.04) * meter_px, ground[1]
        )
        canvas.fill(number, [leg], RUBBER)


def fence(canvas: Canvas, rng: np.random.Generator, left: Point, right: Point, height: float) -> None:
    """Paint a railing of upright bars."""
    number = canvas.new_object("fence")
    bar = max(height * 0.02, 0.5)
    count = max(int((right[0] - left[0]) / (height * 0.16)), 2)
    bars = [
        rectangle(x - bar * 0.6, left[1] - height, x + bar * 0.6, left[1])
        for x in np.linspace(left[0], right[0], count)
    ]
    rails = [rectangle(left[0], left[1] - height * k - bar, right[0], left[1] - height * k + bar) for k in (0.95, 0.12)]
    canvas.fill(number, [*bars, *rails], varied(rng, DARKS + NEUTRALS))
