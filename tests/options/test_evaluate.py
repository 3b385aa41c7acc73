"""Options of the evaluate job."""

import pytest

from persam_ray.cli.command_line import parse
from persam_ray.errors import ConfigError
from persam_ray.options.evaluate import EvaluateConfig

PLACES = ("--images", "photos", "--output", "out")


def test_dropping_whole_objects_and_dropping_parts_of_masks_have_different_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # so that the message is not broken into lines
    places = [*PLACES, "--predictions", "run"]
    assert parse(EvaluateConfig, [*places, "--min-object-fraction", "0.01"]).min_object_fraction == 0.01
    with pytest.raises(ConfigError, match="--min-object-fraction must be between 0 and 1, but is 2"):
        parse(EvaluateConfig, [*places, "--min-object-fraction", "2"])
    with pytest.raises(SystemExit):
        parse(EvaluateConfig, [*places, "--min-area-fraction", "0.01"])
    captured = capsys.readouterr()
    assert "Unrecognized options: --min-area-fraction" in captured.out + captured.err
