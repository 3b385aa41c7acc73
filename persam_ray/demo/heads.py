"""Skin and faces."""

import numpy as np

from persam_ray.demo.bodies import CROTCH, HEM_BULGE, SHOULDER, Body
from persam_ray.demo.chance import happens
from persam_ray.demo.fabrics import Fabric, plain
from persam_ray.demo.palettes import Colour, mixed, rgb
from persam_ray.demo.pieces import Layer, Tailor, arm_layer, direction_of
from persam_ray.demo.shapes import Outline, Point, between, ellipse, points, smooth, tube, xy


def skin_fabric(colour: Colour) -> Fabric:
    """Return skin of a colour: no folds, a little shine."""
    return plain(colour, folds=0.02, gloss=0.06, grain=0.012)


def add_skin(tailor: Tailor, skin: Fabric) -> None:
    """Add neck, torso, legs with feet, and arms with hands; clothes go over them."""
    body = tailor.body
    left, right = body.flank(SHOULDER, -0.02)
    neck = points(
        body.head + xy(-body.px(0.024), 0), body.head + xy(body.px(0.024), 0),
        body.neck + xy(body.px(0.034), -body.px(0.016)),
        right + xy(0, -body.px(0.006)), *(body.flank(level)[1] for level in (0.23, 0.32, 0.40, 0.48, CROTCH)),
        *(body.flank(level)[0] for level in (CROTCH, 0.48, 0.40, 0.32, 0.23)),
        left + xy(0, -body.px(0.006)), body.neck + xy(-body.px(0.034), -body.px(0.016)),
    )  # fmt: skip
    for side in (0, 1):
        toes = body.legs[side].toes
        ankle = body.legs[side].path[2]
        foot = tube(np.array([ankle, toes]), (body.px(0.018), body.px(0.017)))
        outlines = (*body.leg_tube(side, 0.505, 0.945, (0.0, 0.0)), *foot)
        tailor.add(Layer.BODY, "skin", outlines, skin, part=f"leg {side}", roundness=0.028)
    tailor.add(Layer.BODY, "skin", [neck], skin, part="torso", roundness=0.02)
    for side in (0, 1):
        _add_arm(tailor, side, skin)
    throat = ellipse(body.head + xy(0, body.px(body.build.head)), body.px(0.034), body.px(0.016))
    tailor.mark(Layer.BODY, "skin", [throat], 0.72, part="torso")


def _add_arm(tailor: Tailor, side: int, skin: Fabric) -> None:
    """Add one arm; of a hand in a pocket the fingers are not seen."""
    body = tailor.body
    arm = body.arms[side]
    width = body.px(body.build.arm)
    shoulder, elbow, wrist, tips = arm.path
    spine = np.array([shoulder, between(shoulder, elbow, 0.3), elbow, wrist])
    upper = tube(spine, [width * share for share in (0.74, 0.96, 0.86, 0.58)], bulges=(0.6, 1.0))
    angle = direction_of(shoulder, elbow)
    layer, part = arm_layer(body, side), f"arm {side}"
    tailor.add(layer, "skin", upper, skin, part=part, roundness=0.02, angle=angle)
    if arm.pose == "pocket":
        back = tube(
            np.array([wrist, between(wrist, tips, 0.5)]), (body.px(0.013), body.px(0.017)), bulges=(1.0, HEM_BULGE)
        )
        tailor.add(layer, "skin", back, skin, part=part, roundness=0.010, shadow=0.3, angle=angle)
        return
    hand, thumb = hand_outlines(body, wrist, tips, -1.0 if side == 0 else 1.0)
    tailor.add(layer, "skin", (*hand, *thumb), skin, part=part, roundness=0.010, shadow=0.3, angle=angle)
    for t in (-0.35, 0.0, 0.35):
        start, end = wrist + (tips - wrist) * 0.62, tips
        across = np.array([-(tips - wrist)[1], (tips - wrist)[0]]) * 0.30 * t
        finger = tube(np.array([start + across, end + across]), [body.px(0.0009)] * 2)
        tailor.mark(layer, "skin", finger, 0.78, part=part)


def hand_outlines(
    body: Body, wrist: Point, tips: Point, sign: float
) -> tuple[tuple[Outline, ...], tuple[Outline, ...]]:
    """Return a hand from wrist to fingertips and its thumb."""
    middle = (wrist + tips) / 2
    across = np.array([-(tips - wrist)[1], (tips - wrist)[0]])
    across = across / max(float(np.linalg.norm(across)), 1e-6) * sign
    palm = tube(np.array([wrist, middle, tips]), (body.px(0.014), body.px(0.018), body.px(0.009)))
    thumb = tube(np.array([wrist + 0.2 * (tips - wrist), middle + across * body.px(0.020)]), [body.px(0.007)] * 2)
    return palm, thumb


def face_outline(body: Body) -> Outline:
    """Return the face from forehead to chin, turned with the head."""
    half, tall = body.px(0.0455), body.px(body.build.head)
    jaw = 0.62 if body.feminine else 0.74
    lean = body.px(0.007) * body.turn
    right = ((0.0, -0.98), (0.62, -0.82), (0.97, -0.25), (0.93, 0.22), (jaw, 0.72), (0.26, 0.98))
    shape = [*right, *((-x, y) for x, y in right[:0:-1])]
    return smooth(np.array([body.head + xy(x * half + lean * max(y, 0), y * tall) for x, y in shape]), steps=4)


def add_face(tailor: Tailor, skin: Fabric, rng: np.random.Generator, *, hair: Colour, eyes: bool) -> None:
    """Add head and features; `eyes` are left out where sunglasses hide them."""
    body = tailor.body
    tone = skin.mean()
    for sign in (-1, 1):
        ear = ellipse(
            body.head + xy(sign * body.px(0.046) - body.px(0.006) * body.turn, body.px(0.004)),
            body.px(0.008),
            body.px(0.015),
        )
        tailor.add(Layer.FACE, "face", [ear], skin.shaded(0.92), roundness=0.006, shadow=0.2)
    tailor.add(Layer.FACE, "face", [face_outline(body)], skin, roundness=0.035, shadow=0.5)
    lips = mixed(tone, rgb("8a2a2f"), float(rng.uniform(0.35, 0.8)) if body.feminine else 0.3)
    mouth = float(rng.uniform(0.011, 0.016))
    for sign in (-1, 1):
        _feature(tailor, (sign * 0.019, -0.002), (0.0105, 0.0065), tone * np.float32(0.8))  # eye socket
        _feature(tailor, (sign * 0.019, -0.012), (0.0105, 0.0021), mixed(hair, tone, 0.25), sign * 0.08)  # brow
        if eyes:
            _feature(tailor, (sign * 0.019, 0.0), (0.0078, 0.0036), rgb("eeeae4"))
            _feature(tailor, (sign * 0.019, 0.0), (0.0034, 0.0036), rgb("2a1c14"))
    _feature(tailor, (0.004, 0.012), (0.0035, 0.012), tone * np.float32(1.06))  # bridge of the nose
    _feature(tailor, (0.0, 0.0225), (0.0085, 0.0030), tone * np.float32(0.78))  # shade below it
    _feature(tailor, (0.0, 0.040), (mouth, 0.0042), lips)
    _feature(tailor, (0.0, 0.0395), (0.0125, 0.0010), lips * np.float32(0.55))  # between the lips
    if not body.feminine and happens(rng, 0.4):
        _add_beard(tailor, hair, tone, full=happens(rng, 0.5))


def _feature(
    tailor: Tailor, at: tuple[float, float], radii: tuple[float, float], colour: Colour, angle: float = 0.0
) -> None:
    """Add an oval of the face, at a place (shares of the height) from the middle of the turned face."""
    body = tailor.body
    center = body.head + xy(body.px(0.013) * body.turn, 0) + body.height_px * xy(*at)
    outline = ellipse(center, body.px(radii[0]), body.px(radii[1]), angle, count=14)
    tailor.detail(Layer.FACE, "face", [outline], plain(colour, folds=0.0, grain=0.0))


def _add_beard(tailor: Tailor, hair: Colour, tone: Colour, *, full: bool) -> None:
    """Add a beard or its shadow around the mouth."""
    body = tailor.body
    half, tall = body.px(0.0455), body.px(body.build.head)
    shape = (
        (-0.95, 0.15), (-0.7, 0.42), (-0.25, 0.40), (0.25, 0.40), (0.7, 0.42), (0.95, 0.15), (0.8, 0.8), (0.2, 1.02),
        (-0.2, 1.02), (-0.8, 0.8),
    )  # fmt: skip
    outline = smooth(
        np.array([body.head + xy(x * half + 0.004 * body.height_px * body.turn, y * tall) for x, y in shape]), steps=3
    )
    colour = mixed(tone, hair, 0.85 if full else 0.3)
    tailor.detail(Layer.FACE, "face", [outline], plain(colour, grain=0.1))
    mouth = ellipse(body.head + xy(body.px(0.013) * body.turn, body.px(0.040)), body.px(0.012), body.px(0.0035))
    tailor.detail(Layer.FACE, "face", [mouth], plain(mixed(tone, rgb("8a2a2f"), 0.4)))
