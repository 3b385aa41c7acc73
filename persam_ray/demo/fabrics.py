"""Fabrics: a colour pattern that repeats, and how the cloth falls.

A fabric is sampled in the frame of what it is sewn into: (u, v) in units of the wearer's height, u across and v down
the garment, so that stripes follow a sleeve and a distant person's checks are small.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from persam_ray.demo.chance import happens, pick
from persam_ray.demo.palettes import ACCENTS, BRIGHTS, DARKS, NEUTRALS, Colour, brightness, contrasting, mixed

FloatArray = npt.NDArray[np.float32]

TILE_PX = 96
"""Side of a pattern's tile."""
RELIEF_PX = 256


@dataclass(frozen=True)
class Fabric:
    """How a surface looks.

    Attributes:
        tile_hw3: The pattern, RGB 0 to 255, repeating; 1 x 1 for a plain colour.
        span: Side of the tile in units of the wearer's height.
        folds: Depth of the folds, 0 (stiff) to about 0.3 (share of the brightness).
        gloss: Strength of the highlight, 0 (wool) to about 0.6 (patent leather).
        grain: Depth of the weave, share of the brightness.
    """

    tile_hw3: FloatArray
    span: float = 0.1
    folds: float = 0.12
    gloss: float = 0.0
    grain: float = 0.02

    def sample(self, u_hw: FloatArray, v_hw: FloatArray) -> FloatArray:
        """Return the colours (h, w, 3) at these places."""
        side = self.tile_hw3.shape[0]
        if side == 1:
            return np.broadcast_to(self.tile_hw3[0, 0], (*u_hw.shape, 3))
        scale = side / self.span
        return cv2.remap(  # type: ignore[return-value]  # float in, float out
            self.tile_hw3,
            _wrapped(u_hw, scale, side),
            _wrapped(v_hw, scale, side),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        )

    def mean(self) -> Colour:
        """Return the average colour."""
        return np.asarray(self.tile_hw3.reshape(-1, 3).mean(axis=0), dtype=np.float32)

    def shaded(self, factor: float) -> "Fabric":
        """Return the same fabric, darker (below 1) or brighter."""
        return replace(self, tile_hw3=np.clip(self.tile_hw3 * np.float32(factor), 0, 255))


def plain(colour: Colour, folds: float = 0.12, gloss: float = 0.0, grain: float = 0.02) -> Fabric:
    """Return a fabric of one colour."""
    return Fabric(np.asarray(colour, dtype=np.float32).reshape(1, 1, 3), folds=folds, gloss=gloss, grain=grain)


@functools.cache
def relief_tile(kind: str) -> FloatArray:
    """Return a repeating 256 x 256 field of brightness with mean 0 and deviation 1.

    `folds`, lit from the left, are long along v, some pulled to the sides; `weave` is fine;
    `leaves` are clumps.
    """
    rng = np.random.default_rng([5, len(kind)])
    if kind != "folds":
        sigma = {"weave": 0.6, "leaves": 3.0}[kind]
        return np.asarray(_soft_noise(rng, sigma, sigma), dtype=np.float32)
    field = _soft_noise(rng, 8.0, 30.0)
    field -= 0.18 * np.abs(_soft_noise(rng, 9.0, 26.0))  # creases, sharp where the noise crosses zero
    for slope in (-1, 1):
        pulled = _soft_noise(rng, 10.0, 22.0)
        field += 0.45 * np.array([np.roll(row, slope * k) for k, row in enumerate(pulled)])
    lit = np.roll(field, -2, axis=1) - np.roll(field, 2, axis=1)  # the sides of the folds, lit from the left
    return np.asarray(lit / lit.std(), dtype=np.float32)


def _soft_noise(rng: np.random.Generator, sigma_u: float, sigma_v: float) -> npt.NDArray[np.float64]:
    """Return repeating noise, blurred by these deviations (pixels), with mean 0 and deviation 1."""
    frequency = np.fft.fftfreq(RELIEF_PX) * 2 * np.pi
    damping = np.exp(-0.5 * ((sigma_u * frequency[None, :]) ** 2 + (sigma_v * frequency[:, None]) ** 2))
    damping[0, 0] = 0
    field = np.real(np.fft.ifft2(np.fft.fft2(rng.normal(size=(RELIEF_PX, RELIEF_PX))) * damping))
    return np.asarray(field / field.std())


def sample_relief(kind: str, u_hw: FloatArray, v_hw: FloatArray, span: float) -> FloatArray:
    """Return the field's values at places (u, v), its tile being `span` wide."""
    tile = relief_tile(kind)
    side = tile.shape[0]
    u, v = (_wrapped(c, side / span, side) for c in (u_hw, v_hw))
    return cv2.remap(tile, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)  # type: ignore[return-value]


def _wrapped(c_hw: FloatArray, scale: float, side: int) -> FloatArray:
    """Return coordinates in a repeating tile, 0 to `side`; five times as fast as numpy's `mod`."""
    turns = c_hw * np.float32(scale / side)
    turns -= np.floor(turns)
    turns *= np.float32(side)
    return turns


def _blank(colour: Colour) -> FloatArray:
    return np.tile(np.asarray(colour, dtype=np.float32), (TILE_PX, TILE_PX, 1))


def _put(tile: FloatArray, xy: tuple[float, float], radius: float, colour: Colour, stretch: float = 1.0) -> None:
    """Draw an ellipse that continues on the other side of the tile."""
    value = tuple(float(c) for c in colour)
    for dx in (-TILE_PX, 0, TILE_PX):
        for dy in (-TILE_PX, 0, TILE_PX):
            center = (round(xy[0] + dx), round(xy[1] + dy))
            cv2.ellipse(tile, center, (round(radius), round(radius * stretch)), 0, 0, 360, value, -1, cv2.LINE_AA)


def _stripes(rng: np.random.Generator, ground: Colour, figure: Colour) -> Fabric:
    tile = _blank(ground)
    width = int(rng.integers(TILE_PX // 6, TILE_PX // 2))
    tile[:width] = figure
    if happens(rng, 0.3):
        tile[TILE_PX * 3 // 4 : TILE_PX * 3 // 4 + 5] = mixed(ground, figure, 0.6)
    if happens(rng, 0.25):
        tile = np.ascontiguousarray(tile.transpose(1, 0, 2))
    return Fabric(tile, span=float(rng.uniform(0.016, 0.05)))


def _checks(rng: np.random.Generator, ground: Colour, figure: Colour) -> Fabric:
    """Return a gingham or a tartan: the same bands both ways, darker where they cross."""
    share = np.zeros(TILE_PX, dtype=np.float32)
    share[: TILE_PX // 2] = 0.6
    if happens(rng, 0.5):
        share[:] = 0
        share[8:30], share[36:42], share[64:68] = 0.55, 0.35, 0.5
    both = (share[:, None] + share[None, :]) / 1.2
    third = contrasting(rng, figure, NEUTRALS + ACCENTS)
    tile = ground + (figure - ground) * both[..., None]
    if happens(rng, 0.4):
        tile[80:83], tile[:, 80:83] = third, third
    return Fabric(np.asarray(tile, dtype=np.float32), span=float(rng.uniform(0.03, 0.09)))


def _dots(rng: np.random.Generator, ground: Colour, figure: Colour) -> Fabric:
    tile = _blank(ground)
    radius = float(rng.uniform(9, 20))
    for xy in ((24, 24), (72, 72)):
        _put(tile, xy, radius, figure)
    return Fabric(tile, span=float(rng.uniform(0.03, 0.07)))


def _floral(rng: np.random.Generator, ground: Colour, figure: Colour) -> Fabric:
    tile = _blank(ground)
    leaf = contrasting(rng, ground, ("3f5a3c", "6a7148", "4f7a52", "8fa36a"), 35)
    heart = contrasting(rng, figure, ("e3c04f", "f3f1ec", "6e1f2e"))
    for _ in range(9):
        x, y = rng.uniform(0, TILE_PX, 2)
        _put(tile, (x, y), float(rng.uniform(3, 5)), leaf, stretch=float(rng.uniform(1.2, 2.2)))
    for _ in range(5):
        x, y = rng.uniform(0, TILE_PX, 2)
        size = float(rng.uniform(5, 9))
        for turn in np.arange(5) * (2 * np.pi / 5) + rng.uniform(0, 2):
            _put(tile, (x + size * np.cos(turn), y + size * np.sin(turn)), size * 0.65, figure)
        _put(tile, (x, y), size * 0.5, heart)
    return Fabric(tile, span=float(rng.uniform(0.07, 0.14)))


def _print(rng: np.random.Generator, ground: Colour, figure: Colour) -> Fabric:
    """Return an all-over print of irregular spots: animal skin, camouflage, brush strokes."""
    field = np.tile(relief_tile("leaves"), (2, 2))
    x, y = rng.integers(0, 256, 2)
    field = field[y : y + TILE_PX, x : x + TILE_PX]
    window = np.minimum(1, np.minimum(np.arange(TILE_PX), np.arange(TILE_PX)[::-1]) / 8.0)
    field = field * window[:, None] * window[None, :]
    third = contrasting(rng, ground, NEUTRALS + ACCENTS, 30)
    tile = _blank(ground)
    tile[field > 0.45] = figure
    tile[field < -0.9] = third
    return Fabric(cv2.GaussianBlur(tile, (3, 3), 0), span=float(rng.uniform(0.08, 0.2)))  # type: ignore[arg-type]


def _knit(rng: np.random.Generator, ground: Colour, figure: Colour) -> Fabric:
    del figure
    tile = _blank(ground)
    ribs = 0.86 + 0.2 * np.abs(np.sin(np.arange(TILE_PX) * (np.pi * 4 / TILE_PX)))
    tile *= ribs[None, :, None].astype(np.float32)
    if happens(rng, 0.4):  # cables
        rows = 0.93 + 0.1 * np.abs(np.sin(np.arange(TILE_PX) * (np.pi * 6 / TILE_PX)))
        tile *= rows[:, None, None].astype(np.float32)
    return Fabric(np.clip(tile, 0, 255), span=float(rng.uniform(0.03, 0.06)), folds=0.1, grain=0.06)


def _heather(rng: np.random.Generator, ground: Colour, figure: Colour) -> Fabric:
    del figure
    return plain(ground, folds=float(rng.uniform(0.08, 0.14)), grain=float(rng.uniform(0.06, 0.13)))


def _pinstripes(rng: np.random.Generator, ground: Colour, figure: Colour) -> Fabric:
    tile = _blank(ground)
    tile[:, 40:48] = mixed(ground, figure, 0.6)
    return Fabric(tile, span=float(rng.uniform(0.012, 0.025)))


def _plain(rng: np.random.Generator, ground: Colour, figure: Colour) -> Fabric:
    del figure
    return plain(ground, folds=float(rng.uniform(0.1, 0.2)), gloss=float(rng.uniform(0, 0.15)))


PATTERNS: dict[str, Callable[[np.random.Generator, Colour, Colour], Fabric]] = {
    "plain": _plain,
    "heather": _heather,
    "knit": _knit,
    "stripes": _stripes,
    "pinstripes": _pinstripes,
    "checks": _checks,
    "dots": _dots,
    "floral": _floral,
    "print": _print,
}


def woven(rng: np.random.Generator, weights: dict[str, float], ground: Colour) -> Fabric:
    """Return a fabric of this ground colour, its pattern drawn by weight."""
    table = BRIGHTS + NEUTRALS if brightness(ground) < 110 else DARKS + ACCENTS
    return PATTERNS[pick(rng, weights)](rng, ground, contrasting(rng, ground, table))


def hair_fabric(rng: np.random.Generator, colour: Colour) -> Fabric:
    """Return strands: streaks along v, lighter and darker than the colour."""
    streaks = np.interp(np.arange(TILE_PX), np.arange(0, TILE_PX + 6, 6), rng.normal(1.0, 0.10, TILE_PX // 6 + 1))
    streaks += rng.normal(0, 0.06, TILE_PX)
    streaks[-6:] = np.linspace(streaks[-7], streaks[0], 6)
    tile = _blank(colour) * streaks[None, :, None].astype(np.float32)
    return Fabric(np.clip(tile, 4, 255), span=0.035, folds=0.06, gloss=0.35, grain=0.05)
