"""The options of `persam-ray train-sam`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from persam_ray.errors import ConfigError
from persam_ray.options.base import OutputConfig, check_between, require

if TYPE_CHECKING:
    from persam_ray.compact_sam.training import SamTrainingSettings


@dataclass(frozen=True, kw_only=True)
class TrainSamConfig(OutputConfig):
    """Train a compact Segment Anything Model from random weights on drawn scenes. The bundled model was made this way.

    Example: persam-ray train-sam --output compact-sam
    """

    scenes: int = 4500
    """Number of scenes to draw and train on.
    Each is drawn twice: as it is, and with some objects left out and others in another fabric.
    A scene takes half a second and 76 KB."""

    first_seed: int = 10_000
    """Seed of the first scene.
    The demo shows the scenes from seed 0 on; models are judged on those from 1,000,000 on."""

    backbone: str = "cs3darknet_s"
    """Backbone of the image encoder: a timm model with features at strides 8, 16 and 32."""

    start: str | None = None
    """Compact SAM to start from instead of random weights (path or URL); it must have the same backbone."""

    image_size: int = 384
    """Side of the model's square input in pixels, a multiple of 32."""

    layout_steps: int = 6800
    """Number of optimiser steps before --steps.
    In them the encoder alone learns where things lie, on photos of two thirds the size."""

    steps: int = 2400
    """Number of optimiser steps with prompts."""

    small_steps: float = 0.625
    """Fraction of --steps, 0 to 1, that comes first and trains on photos of two thirds the size, twice as fast."""

    photos_per_step: int = 8
    """Photos in one step, over all workers, two of each scene; a multiple of twice --workers."""

    epoch_steps: int = 100
    """Steps in one epoch, after which losses are reported and a checkpoint is written."""

    learning_rate: float = 5e-4
    """Highest learning rate of AdamW, in the steps without prompts and in those with them.
    Muon, which trains the layers' matrices, takes multiples of it."""

    workers: int = 1
    """Number of training processes; each gets a GPU where there are any."""

    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Number type of the arithmetic; weights and losses are float32."""

    seed: int = 0
    """Seed of everything random except the scenes; 0 or more."""

    resume: bool = False
    """Continue the run at --output from its last checkpoint. All other options must be what they were."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("scenes", "steps", "photos_per_step", "epoch_steps", "workers"):
            value = getattr(self, name)
            require(value >= 1, f"--{name.replace('_', '-')} must be at least 1, but is {value}")
        for name in ("seed", "first_seed", "layout_steps"):
            value = getattr(self, name)
            require(value >= 0, f"--{name.replace('_', '-')} must be at least 0, but is {value}")
        require(
            self.image_size >= 96 and self.image_size % 32 == 0,
            f"--image-size must be a multiple of 32, at least 96, but is {self.image_size}",
        )
        if self.photos_per_step % (2 * self.workers):
            raise ConfigError(
                f"--photos-per-step must be a multiple of twice --workers ({2 * self.workers}), but is "
                f"{self.photos_per_step}"
            )
        check_between("--learning-rate", self.learning_rate, 1e-12, 1)
        check_between("--small-steps", self.small_steps, 0, 1)
        require(self.start != "", "--start must not be empty")
        require(not (self.resume and self.overwrite), "--resume does not go with --overwrite")

    @property
    def settings(self) -> SamTrainingSettings:
        """What the optimiser is told."""
        from persam_ray.compact_sam.samples import SampleSettings
        from persam_ray.compact_sam.training import SamTrainingSettings

        return SamTrainingSettings(
            layout_steps=self.layout_steps,
            steps=self.steps,
            photos_per_step=self.photos_per_step,
            small_steps=self.small_steps,
            small_px=max(64, self.image_size * 2 // 3 // 32 * 32),
            learning_rate=self.learning_rate,
            seed=self.seed,
            samples=SampleSettings(image_size_px=self.image_size),
        )
