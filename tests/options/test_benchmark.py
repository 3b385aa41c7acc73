"""Options of the benchmark: defaults, and what is refused before any work."""

import pytest

from persam_ray.cli.command_line import parse
from persam_ray.errors import ConfigError
from persam_ray.options.benchmark import BenchmarkConfig

PLACES = ("--images", "photos", "--output", "out")


def test_the_benchmark_is_the_articles_unless_told_otherwise() -> None:
    config = parse(BenchmarkConfig, [*PLACES, "--category", "top"])
    assert (config.train_images, config.test_images, config.objects) == (None, None, "component")
    assert (config.min_area_fraction, config.detector_score_threshold, config.sam_score_threshold) == (0.001, 0.5, 0.0)


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
