"""Outerwear: jackets, cardigans and coats, open over what is worn below or closed."""

import numpy as np

from persam_ray.demo.bodies import CHEST, CROTCH, HIP, WAIST, Body
from persam_ray.demo.fabrics import Fabric, plain
from persam_ray.demo.garments import Cut, bodice, neckline, shoulders, side_seams, sleeves
from persam_ray.demo.palettes import rgb
from persam_ray.demo.pieces import Layer, Tailor
from persam_ray.demo.shapes import Outline, Point, between, ellipse, points, smooth, tube, xy

BUTTON = plain(rgb("2a2622"), folds=0.0)


def add_coat(tailor: Tailor, fabric: Fabric, cut: Cut, *, gap: float, collar: str) -> None:
    """Add a coat or jacket.

    Args:
        tailor: Takes the pieces.
        fabric: The fabric outside.
        cut: The cut of the closed coat.
        gap: Half width of the opening at the hem, share of the height; 0 is closed.
        collar: `lapels`, `round`, `hood` or `fur`.
    """
    if gap > 0:
        _open_front(tailor, fabric, cut, gap)
    else:
        _closed_front(tailor, fabric, cut)
    sleeves(tailor, "outer", fabric, cut.sleeve, 0.4 * cut.ease + 0.004)
    _collar(tailor, fabric, gap, collar)


def _open_front(tailor: Tailor, fabric: Fabric, cut: Cut, gap: float) -> None:
    """Add the lining behind the body and one panel on each side."""
    body = tailor.body
    left, right = side_seams(body, cut)
    lining = np.concatenate([left, right[::-1]])
    if cut.hem > CROTCH:
        tailor.add(Layer.LINING, "outer", [lining], fabric.shaded(0.5), shadow=0.0)
    neck = neckline(body, "crew")
    seams = (smooth(left, closed=False, steps=4), smooth(right, closed=False, steps=4))
    for sign, seam, shoulder, corner in zip(
        (-1, 1), seams, shoulders(body, cut.ease), (neck[0], neck[-1]), strict=True
    ):
        edge = front_edge(body, sign, cut.hem, gap)
        panel = np.concatenate([[corner - xy(0, body.px(0.008)), shoulder], seam, edge[::-1]])
        tailor.add(Layer.OUTER, "outer", [panel], fabric, roundness=0.03, shadow=1.0)
        line = tube(edge, [body.px(0.004)] * len(edge))
        tailor.mark(Layer.OUTER, "outer", line, 0.8)
        _pocket(tailor, sign, cut)


def front_edge(body: Body, sign: int, hem: float, gap: float) -> Outline:
    """Return the edge of an open front on one side, from the neck to the hem."""
    levels = np.array([0.21, CHEST, WAIST, HIP, hem])
    levels = np.array([*levels[levels < hem - 0.02], hem])
    halves = np.interp(levels, (0.2, CHEST, hem), (0.026, 0.3 * gap + 0.018, gap))
    centers = np.array([body.center(min(level, CROTCH)) for level in levels])
    centers[:, 1] = np.where(levels > CROTCH, body.neck[1] + body.px(1.0) * (levels - 0.187), centers[:, 1])
    centers[:, 0] += sign * body.px(1.0) * halves
    return smooth(centers, closed=False, steps=4)


def _closed_front(tailor: Tailor, fabric: Fabric, cut: Cut) -> None:
    """Add the whole front with its closing line and buttons."""
    body = tailor.body
    tailor.add(Layer.OUTER, "outer", [bodice(body, cut)], fabric, roundness=0.05, shadow=0.8)
    top = neckline(body, cut.neckline)[2]
    left, right = side_seams(body, cut)
    low = between(left[-1], right[-1], 0.5)
    tailor.mark(Layer.OUTER, "outer", tube(np.array([top, low]), [body.px(0.002)] * 2), 0.6)
    for share in np.linspace(0.12, 0.75, 4):
        center = between(top, low, float(share)) + xy(body.px(0.012), 0)
        tailor.detail(Layer.OUTER, "outer", [ellipse(center, body.px(0.006), body.px(0.006))], BUTTON)
    for sign in (-1, 1):
        _pocket(tailor, sign, cut)


def _pocket(tailor: Tailor, sign: int, cut: Cut) -> None:
    """Add the flap of a side pocket where the coat is long enough for one."""
    if cut.hem < HIP - 0.01:
        return
    body = tailor.body
    outer = body.flank(0.455, cut.ease)[0 if sign < 0 else 1]
    inner = between(outer, body.center(0.455), 0.42)
    start, end = between(outer, inner, 0.25), inner + xy(0, body.px(0.004))
    flap = points(start, end, end + xy(0, body.px(0.018)), start + xy(0, body.px(0.022)))
    tailor.mark(Layer.OUTER, "outer", [flap], 0.82)


def _collar(tailor: Tailor, fabric: Fabric, gap: float, kind: str) -> None:
    body = tailor.body
    neck = neckline(body, "crew")
    if kind == "lapels":
        depth = CHEST + 0.05
        for sign, corner in ((-1, neck[0]), (1, neck[-1])):
            low = body.center(depth) + xy(sign * body.px(0.35 * gap + 0.004), 0)
            wing = corner + xy(sign * body.px(0.034), body.px(0.045))
            notch = corner + xy(sign * body.px(0.020), body.px(0.052))
            lapel = points(
                corner - xy(0, body.px(0.016)), wing, notch, notch + xy(sign * body.px(0.010), body.px(0.006)), low
            )
            tailor.add(Layer.OUTER, "outer", [lapel], fabric.shaded(1.08), roundness=0.008, shadow=0.8)
        return
    thick = {"round": 0.010, "hood": 0.020, "fur": 0.026}[kind]
    shade = {"round": 1.06, "hood": 0.9, "fur": 1.12}[kind]
    for corner, shoulder in zip((neck[0], neck[-1]), shoulders(body, 0.0), strict=True):
        end = _collar_end(body, corner, gap)
        path = np.array([between(corner, shoulder, 0.12) - xy(0, body.px(0.020)), corner, end])
        tailor.add(
            Layer.OUTER, "outer", tube(path, [body.px(thick * 0.8), body.px(thick), body.px(thick * 0.5)]),
            fabric.shaded(shade), roundness=0.012, shadow=0.8,
        )  # fmt: skip


def _collar_end(body: Body, corner: Point, gap: float) -> Point:
    """Return where a collar ends on the front: lower on an open coat."""
    low = body.center(CHEST) if gap > 0 else body.center(0.225)
    return between(corner, low, 0.55)
