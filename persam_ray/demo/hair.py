"""Hair: cuts from short to long, behind the head, on it, and in front of the shoulders."""

import numpy as np

from persam_ray.demo.bodies import Body
from persam_ray.demo.chance import happens
from persam_ray.demo.fabrics import Fabric
from persam_ray.demo.pieces import Layer, Tailor
from persam_ray.demo.shapes import Outline, ellipse, points, smooth, tube, xy

HAIRCUTS_FEMININE = {"long": 34, "wavy": 20, "bob": 16, "bun": 12, "ponytail": 8, "curly": 6, "short": 4}
HAIRCUTS_MASCULINE = {"short": 66, "bald": 8, "curly": 10, "bun": 6, "bob": 10}


def add_hair(tailor: Tailor, hair: Fabric, rng: np.random.Generator, cut: str, *, hat: bool) -> None:
    """Add hair: the cap on the head and, by the cut, what falls behind or in front of the shoulders."""
    if cut == "bald":
        return
    body = tailor.body
    length = {"long": 0.17, "wavy": 0.15, "bob": 0.060, "curly": 0.03}.get(cut, 0.0) * float(rng.uniform(0.8, 1.25))
    puff = {"curly": 0.026, "wavy": 0.012, "long": 0.006, "bob": 0.010}.get(cut, 0.003)
    if length:
        tailor.add(Layer.BEHIND, "hair", [_back(body, length, puff)], hair.shaded(0.75), roundness=0.02)
    if cut == "bun":
        knot = ellipse(body.head - xy(body.px(0.01) * body.turn, body.px(0.080)), body.px(0.026), body.px(0.022))
        tailor.add(Layer.BEHIND, "hair", [knot], hair, roundness=0.02)
    if cut == "ponytail":
        tailor.add(Layer.BEHIND, "hair", _tail(body), hair.shaded(0.85))
    if cut == "curly":
        tailor.add(Layer.BEHIND, "hair", _curls(rng, body), hair, roundness=0.016)
    if not hat:
        tailor.add(Layer.HAIR, "hair", [_cap(rng, body, puff)], hair, roundness=0.016, shadow=0.6)
    if cut in {"long", "wavy", "bob"}:
        _add_locks(tailor, hair, rng, length, puff, wavy=cut == "wavy")


def _back(body: Body, length: float, puff: float) -> Outline:
    """Return the hair that falls behind the neck, `length` below the middle of the head."""
    half = body.px(0.050 + puff)
    shape = ((-0.7, -0.055), (0.7, -0.055), (1.05, 0.0), (1.15, length), (-1.15, length), (-1.05, 0.0))
    return smooth(np.array([body.head + xy(x * half, body.px(y)) for x, y in shape]))


def _tail(body: Body) -> tuple[Outline, ...]:
    """Return a ponytail on the side from which the face is turned away."""
    side = -1.0 if body.turn > 0 else 1.0
    path = body.head + body.height_px * points((side * 0.03, -0.045), (side * 0.066, 0.0), (side * 0.058, 0.09))
    return tube(path, [body.px(w) for w in (0.014, 0.017, 0.006)])


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
    return smooth(outline, steps=4)


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
