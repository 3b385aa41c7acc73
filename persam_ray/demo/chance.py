"""Choices of a scene, all from the one generator that its seed starts."""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def pick(rng: np.random.Generator, weights: Mapping[T, float]) -> T:
    """Return one of the keys, each as often as its weight says."""
    options = list(weights)
    shares = np.array([weights[option] for option in options], dtype=np.float64)
    return options[int(rng.choice(len(options), p=shares / shares.sum()))]


def happens(rng: np.random.Generator, share: float) -> bool:
    """Return True in this share of the calls."""
    return bool(rng.random() < share)
