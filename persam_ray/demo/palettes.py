"""Colours that clothes, people and streets have, as hexadecimal RGB."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Colour = npt.NDArray[np.float32]
"""RGB, 0 to 255."""

NEUTRALS = (
    "1c1c1f",
    "2b2c30",
    "4a4c50",
    "7d7f82",
    "b4b2ad",
    "e9e6df",
    "f3f1ec",
    "d8cbb5",
    "b89a74",
    "8a6a4b",
    "5b4636",
)
BLUES = ("1f2a44", "2c3e63", "3f5f8f", "6f93bd", "a9c1d9", "1f4fa3")
ACCENTS = (
    "a8232c", "c8433a", "6e1f2e", "d9973a", "e3c04f", "3f5a3c", "6a7148", "1f6f6b", "3a9188", "d9a3a6", "e58a75",
    "8a5a86", "b9a3cf", "d65f8f", "e9e06a", "3fa35c",
)  # fmt: skip
BRIGHTS = ("e9e6df", "f3f1ec", "d8cbb5", "a9c1d9", "d9a3a6", "e3c04f", "e6d5c8", "cfd8c8")
DARKS = ("17171a", "1c1c1f", "2b2c30", "24283a", "3a3230", "2a3328", "4a1f28")
DENIMS = ("22304d", "2f4468", "4a6690", "7f9dbf", "1d2230", "9fb2c6")
LEATHERS = ("1b1a1a", "2a1f1a", "5a3522", "8c5630", "b07a47", "4a1f22", "d6c3a3", "6d6a66", "1f3a5f", "a32a2a")
SKINS = ("f0cdb4", "e8bd9f", "dca986", "c98f6a", "b0764f", "8f5b3b", "6d432b", "4f3022")
DARK_HAIRS = ("16120f", "1b1512", "211814", "2a1f19", "33231a", "4d3322", "8e8a86")
HAIRS = (*DARK_HAIRS, "4d3322", "6b4527", "6b4527", "8f6436", "b98b4e", "d6b57c", "7d3a1e")
STONES = ("b7aea2", "a79a8a", "c9c0b2", "8f8c88", "d3cabb", "9c8372", "b08a72", "7f8a8f", "c4b08f", "a5634c")
PAINTS = ("dcd7cc", "c9d3d6", "e3d2b8", "b9c4b4", "d7b9a6", "8fa3a8", "efece4", "a8a49c", "cfa98a", "6f7f86")
FOLIAGE = ("2f4a24", "3f5f2c", "557a38", "6f8f46", "40552a", "7d8f3f")
VEHICLES = ("1a1b1e", "d9dadb", "8f9397", "7a1f22", "26406b", "e0b02c", "f0f0ee", "3a4a42", "b8bcc0")


def rgb(hexadecimal: str) -> Colour:
    """Return a colour of the tables as RGB."""
    return np.array([int(hexadecimal[k : k + 2], 16) for k in (0, 2, 4)], dtype=np.float32)


def varied(rng: np.random.Generator, table: Sequence[str], spread: float = 7.0) -> Colour:
    """Return one colour of a table, changed a little so that no two scenes share it (`spread` in levels)."""
    base = rgb(table[int(rng.integers(len(table)))])
    return np.clip(base + rng.normal(0, spread / 2) + rng.normal(0, spread / 2, 3), 8, 250).astype(np.float32)


def brightness(colour: Colour) -> float:
    """Return the luma, 0 to 255."""
    return float(colour @ np.array([0.299, 0.587, 0.114], dtype=np.float32))


def mixed(a: Colour, b: Colour, share: float) -> Colour:
    """Return a mix with the given share of `b`."""
    return np.asarray(a * (1 - share) + b * share, dtype=np.float32)


def contrasting(rng: np.random.Generator, colour: Colour, table: Sequence[str], least: float = 55.0) -> Colour:
    """Return a colour of the table that differs from the given one by `least` levels at least, if eight draws do."""
    for _ in range(8):
        other = varied(rng, table)
        if float(np.abs(other - colour).max()) >= least:
            return other
    return np.asarray(255 - colour, dtype=np.float32)
