"""The options around Mask R-CNN: defaults, and what is refused before any work."""

import pytest

from persam_ray.cli.command_line import parse
from persam_ray.errors import ConfigError
from persam_ray.mask_rcnn.settings import FewShotSettings
from persam_ray.options.benchmark import BenchmarkConfig
from persam_ray.options.predict_mask_rcnn import PredictConfig
from persam_ray.options.train_mask_rcnn import TrainConfig

PLACES = ("--images", "photos", "--output", "out")


def test_the_benchmark_is_the_articles_unless_told_otherwise() -> None:
    config = parse(BenchmarkConfig, [*PLACES, "--category", "top"])
    assert (config.train_images, config.test_images, config.objects) == (None, None, "component")
    assert (config.min_area_fraction, config.detector_score_threshold, config.sam_score_threshold) == (0.001, 0.5, 0.0)


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--test-images", "0"), "--test-images must be at least 1"),
        (("--min-area-fraction", "2"), "--min-area-fraction must be between 0 and 1"),
        (("--sam-score-threshold", "-1"), "--sam-score-threshold must be between 0 and 1"),
        (("--train-ids", "a,b", "--test-ids", "c,b"), r"--train-ids and --test-ids share \['b'\]"),
        (("--test-ids", "c", "--test-images", "3"), "--test-images does not go with --test-ids"),
        (("--train-ids", "c", "--train-images", "3"), "--train-images does not go with --train-ids"),
        (("--test-ids", "c,c"), "--test-ids names an image twice"),
    ],
)
def test_benchmark_options_that_cannot_be(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(BenchmarkConfig, [*PLACES, "--category", "top", *options])


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


def test_start_weights_that_are_a_file_are_read_and_so_never_overwritten() -> None:
    assert parse(TrainConfig, [*PLACES, "--category", "top", "--start", "run/mask_rcnn.safetensors"]).inputs == (
        "photos",
        "run/mask_rcnn.safetensors",
    )
    for name in ("auto", "none", "coco", "imagenet"):
        assert parse(TrainConfig, [*PLACES, "--category", "top", "--start", name]).inputs == ("photos",)
