"""Outlines of what is drawn: n x 2 float arrays of pixels of the final photo, x to the right and y down.

An outline is closed without repeating its first point. A thing is a tuple of outlines and covers their union.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Point = npt.NDArray[np.float64]
Outline = npt.NDArray[np.float64]


def xy(x: float, y: float) -> Point:
    """Return a point, or a step from one to another."""
    return np.array((x, y), dtype=np.float64)


def points(*corners: Sequence[float] | Point) -> Outline:
    """Stack points to an n x 2 array."""
    return np.array(corners, dtype=np.float64)


def smooth(knots_n2: npt.NDArray[np.float64], closed: bool = True, steps: int = 6) -> npt.NDArray[np.float64]:
    """Return a Catmull-Rom curve through the knots (rows of any width), `steps` points for each knot."""
    if closed:
        before, after, later = (np.roll(knots_n2, shift, axis=0) for shift in (1, -1, -2))
        start = knots_n2
    else:
        padded = np.concatenate([knots_n2[:1], knots_n2, knots_n2[-1:]])
        before, start, after, later = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = np.arange(steps)[:, None, None] / steps
    curve = 0.5 * (
        2 * start
        + (after - before) * t
        + (2 * before - 5 * start + 4 * after - later) * t**2
        + (3 * start - before - 3 * after + later) * t**3
    )
    curve = curve.transpose(1, 0, 2).reshape(-1, knots_n2.shape[1])
    return curve if closed else np.concatenate([curve, knots_n2[-1:]])


def tube(
    spine_n2: npt.NDArray[np.float64],
    half_widths: Sequence[float],
    steps: int = 5,
    bulges: tuple[float, float] = (1.0, 1.0),
) -> tuple[Outline, ...]:
    """Return a limb: a smooth band of varying width around a spine.

    Its first and last end bulge out: 1 is a half circle, 0 cut straight off. There is one outline for each stretch
    between two points of the spine, because an outline that overlaps itself at a sharp bend would be filled with a
    hole.
    """
    widths = np.maximum(np.asarray(half_widths, dtype=np.float64), 1e-3)
    curve = smooth(np.column_stack([spine_n2, widths]), closed=False, steps=steps)
    joints = [bulges[0], *[1.0] * (len(spine_n2) - 2), bulges[1]]
    return tuple(
        _band(curve[k * steps : (k + 1) * steps + 1], joints[k], joints[k + 1]) for k in range(len(joints) - 1)
    )


def _band(curve_n3: npt.NDArray[np.float64], start_bulge: float, end_bulge: float) -> Outline:
    """Return the outline around a nearly straight stretch of (x, y, half width)."""
    middle, width = curve_n3[:, :2], curve_n3[:, 2:]
    along = np.gradient(middle, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    across = np.column_stack([-along[:, 1], along[:, 0]])
    turn = np.linspace(np.pi / 2, -np.pi / 2, 9)[:, None]
    end = middle[-1] + width[-1] * (end_bulge * np.cos(turn) * along[-1] + np.sin(turn) * across[-1])
    start = middle[0] - width[0] * (start_bulge * np.cos(turn) * along[0] + np.sin(turn) * across[0])
    return np.concatenate([middle + width * across, end, (middle - width * across)[::-1], start])


def ellipse(center: Point, radius_x: float, radius_y: float, angle: float = 0.0, count: int = 28) -> Outline:
    """Return an ellipse turned by `angle` radians."""
    t = np.arange(count) * (2 * np.pi / count)
    x, y = radius_x * np.cos(t), radius_y * np.sin(t)
    cosine, sine = np.cos(angle), np.sin(angle)
    ring: Outline = center + np.column_stack([x * cosine - y * sine, x * sine + y * cosine])
    return ring


def rectangle(left: float, top: float, right: float, bottom: float) -> Outline:
    """Return an upright rectangle."""
    return points((left, top), (right, top), (right, bottom), (left, bottom))


def turned(outline: Outline, pivot: Point, angle: float) -> Outline:
    """Return the outline turned around a pivot, radians, clockwise as y points down."""
    cosine, sine = np.cos(angle), np.sin(angle)
    result: Outline = (outline - pivot) @ np.array([[cosine, sine], [-sine, cosine]]) + pivot
    return result


def between(a: Point, b: Point, t: float) -> Point:
    """Return the point that lies the share `t` of the way from `a` to `b`."""
    return a + (b - a) * t


def along(path_n2: npt.NDArray[np.float64], share: float) -> npt.NDArray[np.float64]:
    """Return the first `share` of a path by its length, ending in a new point."""
    lengths = np.linalg.norm(np.diff(path_n2, axis=0), axis=1)
    left = share * lengths.sum()
    for k, length in enumerate(lengths):
        if left <= length:
            return np.concatenate([path_n2[: k + 1], [between(path_n2[k], path_n2[k + 1], left / max(length, 1e-9))]])
        left -= length
    return path_n2
