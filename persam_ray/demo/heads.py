"""Skin, faces and hair."""

import numpy as np

from persam_ray.demo.bodies import CROTCH, HEM_BULGE, SHOULDER, Body
from persam_ray.demo.chance import happens
from persam_ray.demo.fabrics import Fabric, plain
from persam_ray.demo.garments import arm_layer
from persam_ray.demo.palettes import Colour, mixed, rgb
from persam_ray.demo.pieces import Layer, Tailor, direction_of
from persam_ray.demo.shapes import Outline, Point, between, ellipse, points, smooth, tube, xy

HAIRCUTS_FEMININE = {"long": 34, "wavy": 20, "bob": 16, "bun": 12, "ponytail": 8, "curly": 6, "short": 4}
HAIRCUTS_MASCULINE = {"short": 66, "bald": 8, "curly": 10, "bun": 6, "bob": 10}


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
    upper = tube(np.array([shoulder, elbow, wrist]), (width, width * 0.86, width * 0.58))
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
    middle = body.head + xy(body.px(0.013) * body.turn, 0)

    def spot(x: float, y: float, radius_x: float, radius_y: float, colour: Colour, angle: float = 0.0) -> None:
        center = middle + xy(body.px(x), body.px(y))
        outline = ellipse(center, body.px(radius_x), body.px(radius_y), angle, count=14)
        tailor.detail(Layer.FACE, "face", [outline], plain(colour, folds=0.0, grain=0.0))

    lips = mixed(tone, rgb("8a2a2f"), float(rng.uniform(0.35, 0.8)) if body.feminine else 0.3)
    for sign in (-1, 1):
        spot(sign * 0.019, -0.002, 0.0105, 0.0065, tone * np.float32(0.8))
        spot(sign * 0.019, -0.012, 0.0105, 0.0021, mixed(hair, tone, 0.25), sign * 0.08)
        if eyes:
            spot(sign * 0.019, 0.0, 0.0078, 0.0036, rgb("eeeae4"))
            spot(sign * 0.019, 0.0, 0.0034, 0.0036, rgb("2a1c14"))
    spot(0.004, 0.012, 0.0035, 0.012, tone * np.float32(1.06))
    spot(0.0, 0.0225, 0.0085, 0.0030, tone * np.float32(0.78))
    spot(0.0, 0.040, float(rng.uniform(0.011, 0.016)), 0.0042, lips)
    spot(0.0, 0.0395, 0.0125, 0.0010, lips * np.float32(0.55))
    if not body.feminine and happens(rng, 0.4):
        _add_beard(tailor, hair, tone, full=happens(rng, 0.5))


def _add_beard(tailor: Tailor, hair: Colour, tone: Colour, *, full: bool) -> None:
    """Add a beard or its shadow around the mouth."""
    body = tailor.body
    half, tall = body.px(0.0455), body.px(body.build.head)
    shape = (
        (-0.95, 0.15),
        (-0.7, 0.42),
        (-0.25, 0.40),
        (0.25, 0.40),
        (0.7, 0.42),
        (0.95, 0.15),
        (0.8, 0.8),
        (0.2, 1.02),
        (-0.2, 1.02),
        (-0.8, 0.8),
    )
    outline = smooth(
        np.array([body.head + xy(x * half + 0.004 * body.height_px * body.turn, y * tall) for x, y in shape]), steps=3
    )
    colour = mixed(tone, hair, 0.85 if full else 0.3)
    tailor.detail(Layer.FACE, "face", [outline], plain(colour, grain=0.1))
    mouth = ellipse(body.head + xy(body.px(0.013) * body.turn, body.px(0.040)), body.px(0.012), body.px(0.0035))
    tailor.detail(Layer.FACE, "face", [mouth], plain(mixed(tone, rgb("8a2a2f"), 0.4)))


def add_hair(tailor: Tailor, hair: Fabric, rng: np.random.Generator, cut: str, *, hat: bool) -> None:
    """Add hair: the cap on the head and, by the cut, what falls behind or in front of the shoulders."""
    if cut == "bald":
        return
    body = tailor.body
    head = body.head
    length = {"long": 0.17, "wavy": 0.15, "bob": 0.060, "curly": 0.03}.get(cut, 0.0) * float(rng.uniform(0.8, 1.25))
    puff = {"curly": 0.026, "wavy": 0.012, "long": 0.006, "bob": 0.010}.get(cut, 0.003)
    if length:
        width = body.px(0.050 + puff)
        low = head[1] + body.px(length)
        back = points(
            (head[0] - width * 0.7, head[1] - body.px(0.055)), (head[0] + width * 0.7, head[1] - body.px(0.055)),
            (head[0] + width * 1.05, head[1]), (head[0] + width * 1.15, low), (head[0] - width * 1.15, low),
            (head[0] - width * 1.05, head[1]),
        )  # fmt: skip
        tailor.add(Layer.BEHIND, "hair", [smooth(back)], hair.shaded(0.75), roundness=0.02)
    if cut == "bun":
        knot = ellipse(head - xy(body.px(0.01) * body.turn, body.px(0.080)), body.px(0.026), body.px(0.022))
        tailor.add(Layer.BEHIND, "hair", [knot], hair, roundness=0.02)
    if cut == "ponytail":
        side = -1.0 if body.turn > 0 else 1.0
        path = head + body.height_px * np.array([(side * 0.03, -0.045), (side * 0.066, 0.0), (side * 0.058, 0.09)])
        tailor.add(Layer.BEHIND, "hair", tube(path, [body.px(w) for w in (0.014, 0.017, 0.006)]), hair.shaded(0.85))
    if cut == "curly":
        tailor.add(Layer.BEHIND, "hair", _curls(rng, body), hair, roundness=0.016)
    if not hat:
        tailor.add(Layer.HAIR, "hair", [_cap(rng, body, puff)], hair, roundness=0.016, shadow=0.6)
    if cut in {"long", "wavy", "bob"}:
        _add_locks(tailor, hair, rng, length, puff, wavy=cut == "wavy")


def _curls(rng: np.random.Generator, body: Body) -> list[Outline]:
    """Return a cloud of round curls behind the head."""
    turn = np.linspace(np.pi * 0.86, np.pi * 2.14, 13)
    radius = body.px(0.016)
    return [
        ellipse(
            body.head + xy(body.px(0.055) * np.cos(t), body.px(0.066) * np.sin(t)), *(rng.uniform(0.9, 1.5, 2) * radius)
        )
        for t in turn
    ] + [ellipse(body.head - xy(0, body.px(0.012)), body.px(0.057), body.px(0.064))]


def _cap(rng: np.random.Generator, body: Body, puff: float) -> Outline:
    """Return the hair on the head: crown, temples, and a hairline with a parting or a fringe."""
    half, tall = body.px(0.0455 + puff * 0.6), body.px(body.build.head)
    part = float(rng.uniform(-0.5, 0.5))
    brow = float(rng.choice([-0.62, -0.5, -0.30], p=[0.45, 0.35, 0.2]))
    shape = (
        (-1.06, 0.05), (-1.10, -0.40), (-0.80, -0.90), (-0.2, -1.12), (0.3, -1.12), (0.85, -0.86), (1.10, -0.40),
        (1.06, 0.05), (0.92, -0.28), (0.70, brow + 0.10), (part + 0.25, brow - 0.08), (part, brow - 0.16),
        (part - 0.25, brow - 0.06), (-0.70, brow + 0.12), (-0.92, -0.28),
    )  # fmt: skip
    outline = np.array([body.head + xy(x * half, y * tall) for x, y in shape])
    return np.concatenate([smooth(outline, steps=4)])


def _add_locks(
    tailor: Tailor, hair: Fabric, rng: np.random.Generator, length: float, puff: float, *, wavy: bool
) -> None:
    """Add the strands beside the face, which fall in front of one or both shoulders."""
    body = tailor.body
    front = [happens(rng, 0.75), happens(rng, 0.75)]
    for sign, falls in zip((-1.0, 1.0), front, strict=True):
        reach = length if falls else min(length, 0.07)
        levels = np.linspace(-0.035, reach, 6)
        sway = 0.006 * np.sin(np.arange(6) * 2.1 + rng.uniform(0, 6)) if wavy else np.zeros(6)
        x = sign * (0.040 + puff * 0.7 + 0.010 * np.linspace(0, 1, 6)) + sway
        path = body.head + body.height_px * np.column_stack([x, levels])
        widths = [body.px(w) for w in (0.010, 0.013, 0.016, 0.018, 0.017, 0.006)]
        tailor.add(Layer.HAIR, "hair", tube(path, widths), hair, roundness=0.012, shadow=0.7, origin=path[0])
