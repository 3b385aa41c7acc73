"""Options of the label job: defaults, the form of a reference, what the job reads."""

import pytest

from persam_ray.cli.command_line import parse
from persam_ray.options.label import LabelConfig, parse_reference

PLACES = ("--images", "photos", "--output", "out")
PAIR = ("--reference", "cup=a.jpg,b.png")


def test_options_that_are_not_given_have_the_documented_defaults() -> None:
    config = parse(LabelConfig, [*PLACES, *PAIR])
    assert config == LabelConfig(images="photos", output="out", reference=("cup=a.jpg,b.png",))
    assert (config.sam, config.method, config.precision, config.format) == ("vit_b", "persam", "auto", "auto")
    assert (config.min_area_fraction, config.overwrite, config.actors, config.batch_size) == (0.0, False, None, None)


@pytest.mark.parametrize(
    ("pair", "parts"),
    [
        ("cup=a.jpg,b.png", ("cup", "a.jpg", "b.png")),
        ("my cup=s3://b/a=1,2.jpg,m.png", ("my cup", "s3://b/a=1,2.jpg", "m.png")),
    ],
)
def test_a_reference_is_split_at_its_first_equals_and_last_comma(pair: str, parts: tuple[str, str, str]) -> None:
    assert parse_reference(pair) == parts


def test_the_feature_cache_is_among_what_the_job_reads() -> None:
    config = parse(LabelConfig, [*PLACES, *PAIR, "--feature-cache", "s3://bucket/features"])
    assert config.inputs == ("photos", "a.jpg", "b.png", "s3://bucket/features")
    assert config.feature_cache_gb == 50.0
