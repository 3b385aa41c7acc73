"""Bodies: proportions and poses of standing people, and the outlines that clothes are cut to.

Lengths are shares of the height from the crown to the soles; `level` counts them from the crown down: 0.185 are the
shoulders, 0.40 the waist, 0.53 the crotch, 0.73 the knees. Sides are 0 and 1, left and right in the picture.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from persam_ray.demo.chance import happens, pick
from persam_ray.demo.shapes import Outline, Point, between, points, tube

SIDES = (-1.0, 1.0)
HEM_BULGE = 0.22
"""How far hems of sleeves and trousers curve out: seen from slightly above, they are flat ellipses."""

SHOULDER, CHEST, WAIST, HIP, CROTCH, KNEE, ANKLE = 0.187, 0.28, 0.395, 0.49, 0.53, 0.73, 0.945

ARM_POSES = {"hang": 46.0, "pocket": 14.0, "akimbo": 7.0, "across": 10.0, "carry": 12.0, "raised": 5.0, "out": 6.0}
ARM_ANGLES = {
    "hang": (0.14, 0.02, 1.0),
    "pocket": (0.32, -0.15, 0.86),
    "akimbo": (0.80, -0.85, 0.9),
    "across": (0.16, -1.35, 0.85),
    "carry": (0.18, -0.75, 0.62),
    "raised": (0.42, np.pi + 0.42, 0.95),
    "out": (0.45, 0.35, 1.0),
}
"""Upper arm and forearm, radians from straight down outwards, and the forearm's foreshortening."""


@dataclass(frozen=True)
class Build:
    """Proportions, shares of the height: half widths of the torso and limbs."""

    shoulder: float
    chest: float
    waist: float
    hip: float
    arm: float
    thigh: float
    head: float


@dataclass(frozen=True)
class Arm:
    """One arm: shoulder, elbow, wrist and fingertips (4 x 2), its pose, and whether the torso hides it."""

    path: npt.NDArray[np.float64]
    pose: str
    behind: bool


@dataclass(frozen=True)
class Leg:
    """One leg: hip, knee and ankle (3 x 2), the toes, and how far the foot points outwards (-1 to 1)."""

    path: npt.NDArray[np.float64]
    toes: Point


@dataclass(frozen=True)
class Body:
    """A posed body, pixels of the photo.

    Attributes:
        height_px: Crown to soles of the standing person.
        feminine: Chooses hair, clothes and face; the build is separate.
        turn: Direction of the face and the torso, -1 (to the picture's left) to 1.
        neck: Point between the shoulders. `head` is the center of the head, `pelvis` that of the hips.
    """

    build: Build
    height_px: float
    feminine: bool
    turn: float
    head: Point
    neck: Point
    pelvis: Point
    tilt: float
    arms: tuple[Arm, Arm]
    legs: tuple[Leg, Leg]

    def px(self, length: float) -> float:
        """Return a length in pixels."""
        return length * self.height_px

    def center(self, level: float) -> Point:
        """Return the middle of the body at a level; below the crotch, between the legs."""
        if level <= CROTCH:
            return between(self.neck, self.pelvis, (level - SHOULDER) / (CROTCH - SHOULDER))
        left, right = (self.leg_at(side, level)[0] for side in (0, 1))
        return between(left, right, 0.5)

    def half_width(self, level: float) -> float:
        """Return half of the body's width at a level, pixels."""
        build = self.build
        levels = (0.15, SHOULDER, 0.215, CHEST, WAIST, HIP, CROTCH)
        widths = (
            0.03, build.shoulder * 0.92, build.shoulder * 0.93, build.chest, build.waist, build.hip, build.hip * 0.97,
        )  # fmt: skip
        return self.px(float(np.interp(level, levels, widths)) * (1 - 0.14 * abs(self.turn)))

    def flank(self, level: float, ease: float = 0.0) -> tuple[Point, Point]:
        """Return the left and the right edge of the body, `ease` (a share of the height) outside it."""
        if level > CROTCH:
            (left, left_half), (right, right_half) = self.leg_at(0, level), self.leg_at(1, level)
            low, high = min(left[0] - left_half, right[0] - right_half), max(left[0] + left_half, right[0] + right_half)
            y = (left[1] + right[1]) / 2
            return points((low - self.px(ease), y))[0], points((high + self.px(ease), y))[0]
        tilt = float(np.interp(level, (SHOULDER, HIP), (self.tilt, -self.tilt * 0.6)))
        half = (self.half_width(level) + self.px(ease)) * np.array([np.cos(tilt), np.sin(tilt)])
        center = self.center(level)
        return center - half, center + half

    def leg_at(self, side: int, level: float) -> tuple[Point, float]:
        """Return the middle of a leg at a level below the hip, and half of its width, pixels."""
        hip, knee, ankle = self.legs[side].path
        share = float(np.interp(level, (HIP, KNEE, ANKLE), (0, 1, 2)))
        middle = between(hip, knee, share) if share <= 1 else between(knee, ankle, share - 1)
        thigh = self.build.thigh
        levels, widths = (HIP, 0.6, KNEE, 0.79, 0.9, ANKLE), (1.0, 0.9, 0.64, 0.66, 0.42, 0.38)
        return middle, self.px(thigh * float(np.interp(level, levels, widths)))

    def leg_tube(self, side: int, top: float, bottom: float, ease: tuple[float, float]) -> tuple[Outline, ...]:
        """Return a leg's band between two levels; the ease goes from the first to the second down the leg."""
        inner = [level for level in (0.6, KNEE, 0.79) if top + 0.02 < level < bottom - 0.02]
        levels = [top, *inner, bottom]
        spine, widths = zip(*(self.leg_at(side, level) for level in levels), strict=True)
        eases = np.interp(levels, (HIP, max(bottom, HIP + 0.01)), ease)
        half_widths = [width + self.px(more) for width, more in zip(widths, eases, strict=True)]
        return tube(np.array(spine), half_widths, bulges=(HEM_BULGE, HEM_BULGE))


def random_build(rng: np.random.Generator, feminine: bool) -> Build:
    """Return proportions of an adult, slim to stout."""
    stout = float(np.clip(rng.normal(0, 0.5), -0.8, 1.5))
    hip = (0.096 if feminine else 0.090) + 0.016 * stout
    return Build(
        shoulder=(0.108 if feminine else 0.124) + 0.010 * stout + rng.normal(0, 0.004),
        chest=(0.086 if feminine else 0.098) + 0.016 * stout,
        waist=(0.070 if feminine else 0.084) + 0.022 * stout,
        hip=hip,
        arm=(0.023 if feminine else 0.028) + 0.005 * stout,
        thigh=hip * 0.56,
        head=float(rng.uniform(0.064, 0.071)),
    )


def pose(rng: np.random.Generator, feet: Point, height_px: float, feminine: bool) -> Body:
    """Return a standing, leaning or striding body with the middle of its soles at `feet`."""
    build = random_build(rng, feminine)
    sway, tilt = float(rng.normal(0, 0.014)), float(rng.normal(0, 0.05))
    turn = float(np.clip(rng.normal(0, 0.4), -0.95, 0.95))
    pelvis = feet + height_px * np.array([sway, CROTCH - 1])
    neck = pelvis + height_px * np.array([rng.normal(0, 0.012) - 0.6 * sway, SHOULDER - CROTCH])
    head = neck + height_px * np.array([rng.normal(0, 0.006) + 0.010 * turn, build.head - SHOULDER])
    legs = _legs(rng, build, feet, pelvis, height_px)
    arms = tuple(_arm(rng, side, build, neck, tilt, turn, height_px) for side in SIDES)
    return Body(build, height_px, feminine, turn, head, neck, pelvis, tilt, (arms[0], arms[1]), legs)


def _legs(rng: np.random.Generator, build: Build, feet: Point, pelvis: Point, height_px: float) -> tuple[Leg, Leg]:
    """Return both legs: feet together, apart, crossed, or one in front in a stride."""
    stance = pick(rng, {"together": 35, "apart": 25, "stride": 30, "crossed": 10})
    half = {"together": 0.036, "apart": 0.075, "stride": 0.034, "crossed": -0.022}[stance] + rng.normal(0, 0.006)
    front = int(rng.integers(2))
    legs = []
    for side, sign in enumerate(SIDES):
        ahead = stance in {"stride", "crossed"} and side == front
        lift = 0.018 if stance == "stride" and not ahead else 0.0
        ankle = feet + height_px * np.array([sign * half, ANKLE - 1 - lift + 0.012 * ahead])
        hip = pelvis + height_px * np.array([sign * build.hip * 0.47, HIP - CROTCH])
        knee = between(hip, ankle, 0.525) + height_px * np.array([sign * (0.012 - 0.016 * ahead), 0])
        out = sign * float(rng.uniform(0.1, 0.7))
        toes = ankle + height_px * np.array([0.030 * out, 0.052])
        legs.append(Leg(np.array([hip, knee, ankle]), toes))
    return legs[0], legs[1]


def _arm(
    rng: np.random.Generator, sign: float, build: Build, neck: Point, tilt: float, turn: float, height_px: float
) -> Arm:
    kind = pick(rng, ARM_POSES)
    upper, lower, shorter = ARM_ANGLES[kind]
    upper, lower = upper + rng.normal(0, 0.06), lower + rng.normal(0, 0.10)
    reach = (build.shoulder - build.arm * 0.75) * (1 - 0.14 * abs(turn))
    shoulder = neck + height_px * np.array([sign * reach * np.cos(tilt), 0.022 + sign * reach * np.sin(tilt)])
    elbow = shoulder + height_px * 0.168 * _direction(sign, upper)
    wrist = elbow + height_px * 0.142 * shorter * _direction(sign, lower)
    tips = wrist + height_px * 0.062 * _direction(sign, lower + rng.normal(0, 0.12))
    behind = kind in {"hang", "pocket"} and (sign * turn > 0.45 or happens(rng, 0.04))
    return Arm(np.array([shoulder, elbow, wrist, tips]), kind, behind)


def _direction(sign: float, angle: float) -> Point:
    return np.array([sign * np.sin(angle), np.cos(angle)])
