"""Options of labeling with Mask R-CNN: what is refused before any work."""

import pytest

from persam_ray.cli.command_line import parse
from persam_ray.errors import ConfigError
from persam_ray.options.predict_mask_rcnn import PredictConfig

PLACES = ("--images", "photos", "--output", "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--checkpoint", ""), "--checkpoint must not be empty"),
        (("--checkpoint", "c", "--least-score", "1.5"), "--least-score must be between 0 and 1"),
        (("--checkpoint", "c", "--instances-per-image", "0"), "--instances-per-image must be at least 1"),
        (("--checkpoint", "c", "--actors", "0"), "--actors must be at least 1"),
    ],
)
def test_labeling_options_that_cannot_be(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(PredictConfig, [*PLACES, *options])
