"""Tops, dresses, trousers, skirts, hose and coats, cut to a body."""

from dataclasses import dataclass

import numpy as np

from persam_ray.demo.bodies import CHEST, CROTCH, HEM_BULGE, HIP, KNEE, WAIST, Body
from persam_ray.demo.fabrics import Fabric
from persam_ray.demo.pieces import Layer, Tailor, arm_layer, direction_of
from persam_ray.demo.shapes import Outline, Point, along, between, ellipse, points, smooth, tube, xy

NECK_WIDTHS = {"crew": 0.034, "v": 0.036, "scoop": 0.055, "boat": 0.062, "high": 0.030, "shirt": 0.032}
NECK_DEPTHS = {"crew": 0.012, "v": 0.075, "scoop": 0.050, "boat": 0.006, "high": -0.030, "shirt": 0.035}
"""Half width of the neckline and its depth below the shoulders, shares of the height."""


@dataclass(frozen=True)
class Cut:
    """How a garment of the upper body is cut.

    Attributes:
        neckline: A key of `NECK_WIDTHS`.
        sleeve: Share of the arm that is covered, 0 to 1.
        hem: Level of the lower edge.
        ease: Room between body and cloth, share of the height.
        flare: Extra half width at the hem below the waist.
    """

    neckline: str
    sleeve: float
    hem: float
    ease: float = 0.008
    flare: float = 0.0


def neckline(body: Body, kind: str, deeper: float = 0.0) -> Outline:
    """Return the edge of a garment around the neck, from left to right (k x 2)."""
    half, depth = body.px(NECK_WIDTHS[kind]), body.px(NECK_DEPTHS[kind] + deeper)
    base = body.neck - xy(0, body.px(0.014))
    shape = ((-1.0, 0.0), (-0.15, 1.0), (0.15, 1.0), (1.0, 0.0)) if kind in {"v", "shirt"} else (
        (-1.0, 0.0), (-0.8, 0.55), (-0.4, 0.92), (0.4, 0.92), (0.8, 0.55), (1.0, 0.0))  # fmt: skip
    lean = body.px(0.006) * body.turn
    return np.array([base + xy(x * half + lean * y, y * (depth + body.px(0.014))) for x, y in shape])


def shoulders(body: Body, ease: float) -> tuple[Point, Point]:
    """Return where a garment's shoulder seams meet the sleeves."""
    up = np.array([0, body.px(0.020 + 0.4 * ease)])
    return body.arms[0].path[0] - up, body.arms[1].path[0] - up


def side_seams(body: Body, cut: Cut) -> tuple[Outline, Outline]:
    """Return the left and right side of a garment from the armpit to the hem, each from top to bottom."""
    levels = [level for level in (0.235, CHEST, 0.34, WAIST, 0.44, HIP, CROTCH) if level < cut.hem - 0.015]
    if cut.hem <= CROTCH or levels[-1] < CROTCH:
        levels.append(min(cut.hem, CROTCH))
    edges = [body.flank(level, _ease_at(cut, level)) for level in levels]
    left, right = [edge[0] for edge in edges], [edge[1] for edge in edges]
    narrowing = body.px(0.004) if cut.flare == 0 else 0.0  # a pencil skirt's, from level to level
    if cut.hem <= CROTCH:
        return np.array(left), np.array(right)
    for level in (*(level for level in (0.60, 0.66, KNEE, 0.80, 0.87) if level < cut.hem - 0.02), cut.hem):
        low, high = body.flank(level, 0.007 + cut.flare * (level - WAIST) / 0.3)
        left.append(points((min(low[0], left[-1][0] + narrowing), low[1]))[0])
        right.append(points((max(high[0], right[-1][0] - narrowing), high[1]))[0])
    return np.array(left), np.array(right)


def _ease_at(cut: Cut, level: float) -> float:
    """Return the room at a level: little at a flared garment's waist, more below."""
    if level <= WAIST or cut.flare == 0:
        return cut.ease if cut.flare == 0 or level < 0.34 else min(cut.ease, 0.006)
    return min(cut.ease, 0.006) + cut.flare * (level - WAIST) / 0.3


def hem_line(body: Body, left: Point, right: Point, waves: int = 0) -> Outline:
    """Return the lower edge from right to left: slightly curved, or wavy for a flared skirt."""
    t = np.linspace(0, 1, 4 * waves + 5)[1:-1, None]
    sag = body.px(0.008) * np.sin(np.pi * t) + body.px(0.004) * np.cos(2 * np.pi * waves * t) * (waves > 0)
    return right + (left - right) * t + np.hstack([np.zeros_like(t), sag])


def bodice(body: Body, cut: Cut, waves: int = 0) -> Outline:
    """Return the front of a top or dress, without sleeves."""
    left, right = side_seams(body, cut)
    shoulder_left, shoulder_right = shoulders(body, cut.ease)
    if cut.sleeve <= 0:  # straps end inside the shoulder
        shoulder_left, shoulder_right = (
            between(shoulder, body.neck - xy(0, body.px(0.012)), 0.28) for shoulder in (shoulder_left, shoulder_right)
        )
    down_right = smooth(right, closed=False, steps=4)
    up_left = smooth(left, closed=False, steps=4)[::-1]
    hem = hem_line(body, left[-1], right[-1], waves)
    return np.concatenate([neckline(body, cut.neckline), [shoulder_right], down_right, hem, up_left, [shoulder_left]])


def sleeves(tailor: Tailor, label: str, fabric: Fabric, share: float, ease: float, *, puff: float = 0.0) -> None:
    """Add both sleeves, covering this share of the arms down to the wrists."""
    if share <= 0:
        return
    body = tailor.body
    for side in (0, 1):
        arm = body.arms[side]
        path = along(arm.path[:3], share)
        width = body.px(body.build.arm + ease)
        tapered = width * (1.0 if share < 0.6 else 0.86)
        upper = (width * 0.86, width * (1.04 + puff))  # the seam on the shoulder, and below it
        widths = (*upper, tapered) if len(path) == 2 else (*upper, width, tapered * 0.94)
        spine = np.insert(path, 1, between(path[0], path[1], 0.3), axis=0)
        angle = direction_of(path[0], path[1])
        layer = arm_layer(body, side)
        tailor.add(
            layer,
            label,
            tube(spine, widths, bulges=(0.8, HEM_BULGE)),
            fabric,
            roundness=0.024,
            shadow=0.55,
            origin=path[0],
            angle=angle,
        )
        if share > 0.3:
            _cuff(tailor, layer, label, path, tapered)


def _cuff(tailor: Tailor, layer: Layer, label: str, path: Outline, width: float) -> None:
    """Mark the sleeve's end by a darker hem."""
    end, before = path[-1], between(path[-1], path[-2], 0.12)
    tailor.mark(layer, label, tube(np.array([before, end]), [width * 1.2] * 2, bulges=(0.0, 1.0)), 0.87)


def add_top(tailor: Tailor, fabric: Fabric, cut: Cut, *, tucked: bool, label: str = "top") -> None:
    """Add a top (or the upper part of a romper)."""
    layer = Layer.TUCKED_TOP if tucked else Layer.LOOSE_TOP
    body = tailor.body
    tailor.add(layer, label, [bodice(body, cut)], fabric, roundness=0.045)
    _neck_details(tailor, layer, label, fabric, cut)
    sleeves(tailor, label, fabric, cut.sleeve, 0.4 * cut.ease + 0.003)


def _neck_details(tailor: Tailor, layer: Layer, label: str, fabric: Fabric, cut: Cut) -> None:
    """Add what tells a shirt, a rollneck and a T-shirt apart: collar, button placket, rib."""
    body = tailor.body
    edge = neckline(body, cut.neckline)
    if cut.neckline == "shirt":
        tip = body.px(0.045)
        for sign, corner in ((-1, edge[0]), (1, edge[-1])):
            base = corner - xy(0, body.px(0.016))
            collar = points(
                base, corner + xy(sign * tip * 0.35, tip * 0.25), corner + xy(-sign * tip * 0.1, tip * 1.25), edge[1]
            )
            tailor.add(layer, label, [collar], fabric.shaded(1.07), roundness=0.006, shadow=0.5)
        low = body.center(min(cut.hem, CROTCH))
        for share in np.linspace(0.04, 1, 8):
            tailor.mark(
                layer,
                label,
                [ellipse(between(edge[1], low, share), body.px(0.0035), body.px(0.0035))],
                0.55,
            )
        tailor.mark(layer, label, tube(np.array([edge[1], low]), [body.px(0.0012)] * 2), 0.75)
    elif cut.neckline == "high":
        roll = points(
            edge[0],
            edge[-1],
            edge[-1] + xy(body.px(0.006), body.px(0.022)),
            edge[0] + xy(-body.px(0.006), body.px(0.022)),
        )
        tailor.add(layer, label, [smooth(roll)], fabric.shaded(1.04), roundness=0.01, shadow=0.4)
    else:
        width = body.px(0.005)
        tailor.mark(layer, label, tube(edge, [width] * len(edge)), 0.84)


def add_dress(tailor: Tailor, fabric: Fabric, cut: Cut, *, waves: int) -> None:
    """Add a dress: a bodice that goes on as a skirt, with a seam at the waist."""
    body = tailor.body
    tailor.add(Layer.LOOSE_TOP, "dress", [bodice(body, cut, waves)], fabric, roundness=0.05)
    _neck_details(tailor, Layer.LOOSE_TOP, "dress", fabric, cut)
    if cut.flare > 0:
        left, right = body.flank(WAIST, 0.03)
        tailor.mark(Layer.LOOSE_TOP, "dress", tube(np.array([left, right]), [body.px(0.004)] * 2), 0.8)
        skirt_folds(tailor, Layer.LOOSE_TOP, "dress", cut, waves)
    sleeves(tailor, "dress", fabric, cut.sleeve, 0.5 * cut.ease + 0.003, puff=0.12)


def skirt_folds(tailor: Tailor, layer: Layer, label: str, cut: Cut, waves: int) -> None:
    """Mark the pleats from the waist to the hem: wedges of shade, wider below."""
    body = tailor.body
    left, right = side_seams(body, cut)
    top_left, top_right = body.flank(WAIST, 0.0)
    half = float(np.linalg.norm(right[-1] - left[-1])) / max(waves, 2) * 0.22
    for k in range(waves):
        t = (k + 0.5) / waves
        top, low = between(top_left, top_right, 0.12 + 0.76 * t), between(left[-1], right[-1], t)
        start = between(top, low, 0.12)
        wedge = points(start, low + xy(half, body.px(0.02)), low + xy(-half, body.px(0.02)))
        tailor.mark(layer, label, [wedge], 0.83)


def add_skirt(tailor: Tailor, fabric: Fabric, cut: Cut, *, waves: int) -> None:
    """Add a skirt from the waist to `cut.hem`."""
    body = tailor.body
    left, right = side_seams(body, cut)
    below = [k for k, point in enumerate(left) if point[1] > body.center(WAIST)[1] + body.px(0.01)]
    waist_left, waist_right = body.flank(WAIST, 0.006)
    down = smooth(np.array([waist_right, *right[below]]), closed=False, steps=4)
    up = smooth(np.array([waist_left, *left[below]]), closed=False, steps=4)[::-1]
    outline = np.concatenate([down, hem_line(body, left[-1], right[-1], waves), up])
    tailor.add(Layer.BOTTOM, "skirt", [outline], fabric, roundness=0.05)
    if waves:
        skirt_folds(tailor, Layer.BOTTOM, "skirt", cut, waves)
    band = tube(np.array([waist_left, waist_right]), [body.px(0.010)] * 2)
    tailor.mark(Layer.BOTTOM, "skirt", band, 0.88)


def add_pants(tailor: Tailor, fabric: Fabric, hem: float, width: float, *, denim: bool, label: str = "pants") -> None:
    """Add trousers or shorts down to the level `hem`; `width` is the ease at the hem, share of the height."""
    body = tailor.body
    levels = (WAIST + 0.012, 0.44, HIP, CROTCH)
    left, right = zip(
        *(body.flank(level, 0.004 + 0.2 * width * (level > WAIST + 0.03)) for level in levels), strict=True
    )
    crotch = body.center(CROTCH) + xy(0, body.px(0.012))
    seat = np.concatenate(
        [smooth(np.array(right), closed=False, steps=3), [crotch], smooth(np.array(left), closed=False, steps=3)[::-1]]
    )
    eases = (0.004 + 0.4 * width, width)
    legs = [outline for side in (0, 1) for outline in body.leg_tube(side, HIP + 0.01, hem, eases)]
    tailor.add(Layer.BOTTOM, label, [seat, *legs], fabric, roundness=0.03)
    near = int(body.legs[1].path[2][1] > body.legs[0].path[2][1])
    inseam = []
    for level in np.linspace(0.57, hem, 5):
        middle, half = body.leg_at(near, level)
        out = half + body.px(float(np.interp(level, (HIP, hem), eases)))
        inseam.append(middle + xy(out if near == 0 else -out, 0))
    tailor.mark(Layer.BOTTOM, label, tube(np.array(inseam), [body.px(0.0025)] * 5), 0.7)
    _fly(tailor, label, crotch, denim=denim)


def _fly(tailor: Tailor, label: str, crotch: Point, *, denim: bool) -> None:
    """Add waistband, fly and pockets."""
    body = tailor.body
    left, right = body.flank(WAIST + 0.016, 0.01)
    middle = between(left, right, 0.5 + 0.05 * body.turn)
    line = body.px(0.0013)
    tailor.mark(Layer.BOTTOM, label, tube(np.array([left, right]), [body.px(0.009)] * 2), 0.88)
    tailor.mark(Layer.BOTTOM, label, tube(np.array([middle, crotch]), [line * 1.3] * 2), 0.68)
    for edge, sign in ((left, 1), (right, -1)):
        start = edge + xy(sign * body.px(0.035), body.px(0.01))
        pocket = points(start, start + xy(-sign * body.px(0.008), body.px(0.035)), edge + xy(0, body.px(0.055)))
        tailor.mark(Layer.BOTTOM, label, tube(pocket, [line] * 3), 1.3 if denim else 0.7)


def add_hose(tailor: Tailor, fabric: Fabric, label: str, top: float, bottom: float = 0.955) -> None:
    """Add leggings, tights or socks: tight on both legs."""
    for side in (0, 1):
        outlines = tailor.body.leg_tube(side, top, bottom, (0.0015, 0.0015))
        part = "" if label == "leggings" else str(side)
        tailor.add(Layer.HOSE, label, outlines, fabric, part=part, roundness=0.026, shadow=0.3)
