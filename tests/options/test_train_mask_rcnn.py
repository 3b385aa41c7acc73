"""Options of the training of Mask R-CNN: defaults, and what is refused before any work."""

import pytest

from persam_ray.cli.command_line import parse
from persam_ray.errors import ConfigError
from persam_ray.mask_rcnn.settings import FewShotSettings
from persam_ray.options.train_mask_rcnn import TrainConfig

PLACES = ("--images", "photos", "--output", "out")


def test_the_settings_of_training_default_to_those_of_few_shot_learning() -> None:
    assert parse(TrainConfig, [*PLACES, "--category", "top"]).settings == FewShotSettings()
    config = parse(TrainConfig, [*PLACES, "--category", "top", "--steps", "7", "--seed", "3", "--photos-per-step", "4"])
    assert config.settings == FewShotSettings(steps=7, photos_per_step=4, seed=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--workers", "2", "--photos-per-step", "3"), r"--photos-per-step must be a multiple of --workers \(2\)"),
        (("--steps", "0"), "--steps must be at least 1, but is 0"),
        (("--epoch-steps", "0"), "--epoch-steps must be at least 1"),
        (("--learning-rate", "2"), "--learning-rate must be between 1e-12 and 1"),
        (("--backbone", "mobilenet_v2", "--start", "coco"), "--start coco: torchvision has none for mobilenet_v2"),
        (("--train-ids", "a,b", "--train-ids", "a"), "--train-ids names an image twice"),
        (("--train-ids", "a", "--train-images", "3"), "--train-images does not go with --train-ids"),
        (("--train-images", "0"), "--train-images must be at least 1"),
        (("--seed", "-1"), "--seed must be at least 0, but is -1"),
        (("--category", "top"), "--category names one category twice"),
    ],
)
def test_training_options_that_cannot_be(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(TrainConfig, [*PLACES, "--category", "top", *options])


def test_start_weights_that_are_a_file_are_read_and_so_never_overwritten() -> None:
    assert parse(TrainConfig, [*PLACES, "--category", "top", "--start", "run/mask_rcnn.safetensors"]).inputs == (
        "photos",
        "run/mask_rcnn.safetensors",
    )
    for name in ("auto", "none", "coco", "imagenet"):
        assert parse(TrainConfig, [*PLACES, "--category", "top", "--start", name]).inputs == ("photos",)
