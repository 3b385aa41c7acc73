"""Shoes, bags, hats, glasses, scarves, belts and jewellery."""

import numpy as np

from persam_ray.demo.bodies import SIDES, WAIST, Body
from persam_ray.demo.chance import happens, pick
from persam_ray.demo.fabrics import Fabric, plain
from persam_ray.demo.palettes import rgb
from persam_ray.demo.pieces import Layer, Tailor
from persam_ray.demo.shapes import Outline, Point, between, ellipse, points, smooth, tube, turned, xy

METAL = plain(rgb("c9b37a"), folds=0.0, gloss=0.5)
SOLE = plain(rgb("e6e2da"), folds=0.0)
DARK = plain(rgb("17161a"), folds=0.0, gloss=0.5, grain=0.0)


def add_shoes(tailor: Tailor, leather: Fabric, kind: str, *, shaft: float, over_trousers: bool) -> None:
    """Add both shoes: `sneaker`, `boot` (with a shaft up to the level `shaft`), `heel`, `flat` or `loafer`."""
    body = tailor.body
    layer = Layer.BOOT if kind == "boot" and over_trousers else Layer.SHOE
    wide = {"sneaker": 1.15, "boot": 1.1, "loafer": 1.05, "flat": 0.95, "heel": 0.85}[kind]
    vamp = {"sneaker": -0.004, "boot": -0.01, "loafer": 0.008, "flat": 0.026, "heel": 0.024}[kind]
    for side in (0, 1):
        ankle, toes = body.legs[side].path[2], body.legs[side].toes
        start = ankle + xy(0, body.px(vamp))
        middle = between(start, toes, 0.6)
        widths = [body.px(w * wide) for w in (0.017, 0.024, 0.021)]
        outlines = tube(np.array([start, middle, toes]), widths)
        if kind == "boot":
            outlines += body.leg_tube(side, shaft, 0.955, (0.008, 0.004))
        tailor.add(layer, "footwear", outlines, leather, part=str(side), roundness=0.016, shadow=0.4)
        _shoe_details(tailor, layer, leather, kind, side)


def _shoe_details(tailor: Tailor, layer: Layer, leather: Fabric, kind: str, side: int) -> None:
    """Add the sole, and laces or a buckle."""
    body = tailor.body
    ankle, toes = body.legs[side].path[2], body.legs[side].toes
    sole = points(toes + xy(-body.px(0.03), body.px(0.012)), toes + xy(body.px(0.03), body.px(0.012)),
                  toes + xy(body.px(0.03), body.px(0.03)), toes + xy(-body.px(0.03), body.px(0.03)))  # fmt: skip
    tailor.detail(layer, "footwear", [sole], SOLE if kind == "sneaker" else leather.shaded(0.45), part=str(side))
    if kind in {"sneaker", "boot"}:
        for share in (0.25, 0.4, 0.55):
            center = between(ankle, toes, share)
            lace = tube(points(center - xy(body.px(0.010), 0), center + xy(body.px(0.010), 0)), [body.px(0.0016)] * 2)
            light = SOLE if kind == "sneaker" else leather.shaded(1.5)
            tailor.detail(layer, "footwear", lace, light, part=str(side))


def bag_outline(center: Point, width: float, height: float, kind: str) -> Outline:
    """Return a bag's body, pixels: a rounded box, a trapeze or a pouch."""
    top = {"box": 0.92, "trapeze": 0.74, "pouch": 0.6}[kind]
    shape = (
        (-top, -1),
        (0, -1.02),
        (top, -1),
        (0.98, 0.0),
        (1.0, 0.9),
        (0.85, 1.0),
        (0, 1.03),
        (-0.85, 1.0),
        (-1.0, 0.9),
        (-0.98, 0.0),
    )
    return smooth(np.array([center + xy(x * width / 2, y * height / 2) for x, y in shape]), steps=4)


def add_bag(tailor: Tailor, leather: Fabric, rng: np.random.Generator, kind: str) -> None:
    """Add a bag: `crossbody`, `shoulder`, `hand`, `clutch` or `backpack`."""
    if kind == "backpack":
        _add_backpack(tailor, leather)
        return
    body = tailor.body
    side = _bag_side(body, kind)
    width, height = body.px(float(rng.uniform(0.10, 0.20))), body.px(float(rng.uniform(0.075, 0.16)))
    angle = float(rng.normal(0, 0.06))
    if kind == "clutch":
        center, height = body.arms[side].path[2] + body.px(0.02) * np.array([-SIDES[side], 1.2]), height * 0.7
    elif kind == "hand":
        wrist, tips = body.arms[side].path[2:4]
        center = between(wrist, tips, 0.7) + xy(0, height * 0.5 + body.px(0.045))
    elif kind == "elbow":
        elbow, wrist = body.arms[side].path[1:3]
        center = between(elbow, wrist, 0.35) + xy(0, height * 0.5 + body.px(0.05))
    else:
        low = body.flank(0.475 if kind == "crossbody" else 0.44, 0.012)[side]
        center = low + xy(SIDES[side] * width * 0.12, height * 0.3)
    layer = Layer.BAG if kind in {"clutch", "elbow"} else Layer.BAG_BEHIND_ARM
    _add_straps(tailor, layer, leather, kind, side, center, height)
    _add_pouch(tailor, layer, leather, rng, center, (width, height), angle)


def _bag_side(body: Body, kind: str) -> int:
    """Return the side of a bag: for those that an arm carries, where the arm can."""
    wanted = {"hand": ("hang", "out"), "elbow": ("carry", "across"), "clutch": ("across", "carry", "hang")}.get(
        kind, ()
    )
    able = [side for side in (0, 1) if body.arms[side].pose in wanted and not body.arms[side].behind]
    return able[0] if able else int(body.turn > 0)


def can_carry(body: Body, kind: str) -> bool:
    """Return whether a free hand or arm can carry this kind of bag."""
    if kind in {"crossbody", "shoulder", "backpack"}:
        return True
    wanted = {"hand": {"hang", "out"}, "elbow": {"carry", "across"}, "clutch": {"across", "carry", "hang"}}[kind]
    return any(arm.pose in wanted and not arm.behind for arm in body.arms)


def _add_straps(
    tailor: Tailor, layer: Layer, leather: Fabric, kind: str, side: int, center: Point, height: float
) -> None:
    body = tailor.body
    top = center - xy(0, height * 0.45)
    thin = body.px(0.0035)
    if kind in {"crossbody", "shoulder"}:
        far = 1 - side if kind == "crossbody" else side
        shoulder = between(body.arms[far].path[0], body.neck, 0.35) - xy(0, body.px(0.018))
        bend = between(shoulder, top, 0.5) + xy(0, body.px(0.008))
        strap = tube(np.array([shoulder, bend, top]), [thin * 1.3] * 3)
        tailor.add(Layer.BAG_BEHIND_ARM, "bag", strap, leather.shaded(0.9), roundness=0.004)
    elif kind in {"hand", "elbow"}:
        spread, rise = body.px(0.030), body.px(0.058)
        arch = points(
            (-spread, 0), (-spread * 0.8, -rise * 0.75), (0, -rise), (spread * 0.8, -rise * 0.75), (spread, 0)
        )
        tailor.add(layer, "bag", tube(top + arch, [thin] * 5), leather.shaded(0.85), roundness=0.004)


def _add_pouch(
    tailor: Tailor, layer: Layer, leather: Fabric, rng: np.random.Generator, center: Point,
    size_px: tuple[float, float], angle: float,
) -> None:  # fmt: skip
    """Add the bag's body with flap, seams and clasp."""
    body = tailor.body
    width, height = size_px
    shape = pick(rng, {"box": 45, "trapeze": 35, "pouch": 20})
    outline = turned(bag_outline(center, width, height, shape), center, angle)
    tailor.add(layer, "bag", [outline], leather, roundness=0.022, shadow=1.0, origin=center, angle=angle)
    if happens(rng, 0.65):
        flap = np.array(
            [
                center + xy(x * width / 2, y * height / 2)
                for x, y in ((-1, -1.1), (1, -1.1), (0.9, 0.1), (0, 0.3), (-0.9, 0.1))
            ]
        )
        tailor.mark(layer, "bag", [turned(smooth(flap, steps=3), center, angle)], 1.12)
        edge = turned(smooth(flap[2:], closed=False, steps=4), center, angle)
        tailor.mark(layer, "bag", tube(edge[::4], [body.px(0.0015)] * len(edge[::4])), 0.6)
    clasp = ellipse(center + xy(0, height * 0.12), body.px(0.007), body.px(0.005))
    tailor.detail(layer, "bag", [clasp], METAL)


def _add_backpack(tailor: Tailor, cloth: Fabric) -> None:
    """Add what is seen of a backpack from the front: both straps, and its sides behind the arms."""
    body = tailor.body
    low, high = body.flank(0.24, 0.022), body.flank(0.38, 0.026)
    back = smooth(np.array([low[0], low[1], high[1], high[0]]))
    tailor.add(Layer.BEHIND, "bag", [back], cloth.shaded(0.8), roundness=0.02)
    for side in (0, 1):
        top = between(body.arms[side].path[0], body.neck, 0.30) - xy(0, body.px(0.018))
        path = np.array([top, between(body.flank(0.29)[side], body.center(0.29), 0.25), body.flank(0.345, 0.0)[side]])
        strap = tube(path, [body.px(0.011)] * 3)
        tailor.add(Layer.BAG_BEHIND_ARM, "bag", strap, cloth, part=f"strap {side}", roundness=0.008)


def add_hat(tailor: Tailor, fabric: Fabric, kind: str) -> None:
    """Add a `beanie`, a `cap` or a `brim`med hat."""
    body = tailor.body
    half, tall = body.px(0.0455), body.px(body.build.head)
    crown = {"beanie": 1.32, "cap": 1.16, "brim": 1.38}[kind]
    shape = ((-1.16, -0.36), (-1.12, -0.72), (-0.72, -crown), (0.72, -crown), (1.12, -0.72), (1.16, -0.36), (0, -0.28))
    dome = smooth(np.array([body.head + xy(x * half, y * tall) for x, y in shape]), steps=4)
    tailor.add(Layer.HAT, "headwear", [dome], fabric, roundness=0.02)
    band = np.array([body.head + xy(x * half, y * tall) for x, y in ((-1.12, -0.45), (0, -0.37), (1.12, -0.45))])
    if kind == "beanie":
        tailor.add(Layer.HAT, "headwear", tube(band, [body.px(0.013)] * 3), fabric.shaded(1.06), roundness=0.008)
    elif kind == "cap":
        shift = body.px(0.022) * body.turn
        peak = ellipse(body.head + xy(shift, -0.40 * tall), half * 1.12, body.px(0.014))
        tailor.add(Layer.HAT, "headwear", [peak], fabric.shaded(0.85), roundness=0.008)
    else:
        brim = ellipse(body.head - xy(0, 0.46 * tall), half * 2.1, body.px(0.019))
        tailor.mark(Layer.HAT, "headwear", tube(band - xy(0, body.px(0.012)), [body.px(0.009)] * 3), 0.5)
        tailor.add(Layer.HAT, "headwear", [brim], fabric.shaded(0.92), roundness=0.010)


def add_glasses(tailor: Tailor, *, sun: bool) -> None:
    """Add glasses; `sun` makes the lenses dark."""
    body = tailor.body
    middle = body.head + xy(body.px(0.013) * body.turn, 0)
    lenses = [
        ellipse(middle + xy(sign * body.px(0.019), body.px(0.001)), body.px(0.0155), body.px(0.0125)) for sign in SIDES
    ]
    bridge = points(middle - xy(body.px(0.043), body.px(0.004)), middle + xy(body.px(0.043), -body.px(0.004)))
    frame = tube(bridge, [body.px(0.0018)] * 2)
    if sun:
        tailor.add(Layer.GLASSES, "eyeglass", (*lenses, *frame), DARK, roundness=0.008, shadow=0.3)
        return
    rims = [outline for lens in lenses for outline in tube(np.array([*lens[::4], lens[0]]), [body.px(0.0016)] * 8)]
    tailor.add(Layer.GLASSES, "eyeglass", (*rims, *frame), DARK, roundness=0.0, shadow=0.2)


def add_scarf(tailor: Tailor, fabric: Fabric, rng: np.random.Generator) -> None:
    """Add a scarf wound around the neck with one or two hanging ends."""
    body = tailor.body
    neck = body.neck - xy(0, body.px(0.018))
    for k in range(int(rng.integers(1, 3))):
        x = float(rng.uniform(-0.025, 0.025)) + 0.03 * k
        low = body.center(float(rng.uniform(0.30, 0.44))) + xy(body.px(x), 0)
        end = tube(
            np.array([neck + xy(body.px(x * 0.4), 0), between(neck, low, 0.6), low]),
            [body.px(w) for w in (0.016, 0.022, 0.024)],
        )
        tailor.add(Layer.SCARF, "neckwear", end, fabric.shaded(0.95), roundness=0.02, shadow=0.9)
    for shift, shade in ((0.010, 0.9), (-0.012, 1.05)):
        ring = ellipse(neck + xy(0, body.px(shift)), body.px(0.056), body.px(0.024), float(rng.normal(0, 0.12)))
        tailor.add(Layer.SCARF, "neckwear", [ring], fabric.shaded(shade), roundness=0.014, shadow=0.8)


def add_belt(tailor: Tailor, leather: Fabric) -> None:
    """Add a belt at the waist with its buckle."""
    body = tailor.body
    left, right = body.flank(WAIST + 0.014, 0.009)
    middle = between(left, right, 0.5) + xy(body.px(0.010) * body.turn, body.px(0.002))
    tailor.add(
        Layer.BELT, "belt", tube(np.array([left, middle, right]), [body.px(0.008)] * 3), leather, roundness=0.006
    )
    tailor.detail(Layer.BELT, "belt", [ellipse(middle, body.px(0.009), body.px(0.007))], METAL)


def add_necklace(tailor: Tailor, rng: np.random.Generator) -> None:
    """Add a chain on the chest."""
    body = tailor.body
    drop = float(rng.uniform(0.03, 0.09))
    left, right = body.neck + xy(-body.px(0.030), 0), body.neck + xy(body.px(0.030), 0)
    low = body.neck + xy(0, body.px(drop))
    tailor.add(
        Layer.NECKLACE, "necklace", tube(np.array([left, low, right]), [body.px(0.0022)] * 3), METAL, roundness=0.0
    )
