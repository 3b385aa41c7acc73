"""How Mask R-CNN is trained on a handful of photos."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class FewShotSettings:
    """How a handful of photos is trained on. The defaults are for ten photos and two CPU cores (8 minutes).

    Attributes:
        steps: Optimiser steps.
        photos_per_step: Photos in a step, over all workers; a multiple of their number.
        learning_rate: Highest rate of AdamW; reached after `warmup` of the steps, then a cosine to 0.
        weight_decay: AdamW's, on weights of two and more dimensions.
        warmup: Part of the steps, in [0, 1]: the heads are random, and so are their first gradients.
        clip_norm: Longest gradient.
        scale: Photos are enlarged or reduced by up to this factor; 1 is off.
        colour: Brightness, contrast and saturation change by factors up to 1 +- this, in [0, 1].
        hue: Hue turns by up to this part of the circle, in [0, 0.5].
        seed: Seed of the photos' order, of augmentation and of the boxes that losses sample.
    """

    steps: int = 500
    photos_per_step: int = 2
    learning_rate: float = 2e-4
    weight_decay: float = 0.05
    warmup: float = 0.05
    clip_norm: float = 1.0
    scale: float = 1.4
    colour: float = 0.4
    hue: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("steps", 1, math.inf),
            ("photos_per_step", 1, math.inf),
            ("learning_rate", 1e-12, math.inf),
            ("weight_decay", 0, math.inf),
            ("warmup", 0, 1),
            ("clip_norm", 1e-12, math.inf),
            ("scale", 1, math.inf),
            ("colour", 0, 1),
            ("hue", 0, 0.5),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must be in [{low}, {high}], but got {value}")
