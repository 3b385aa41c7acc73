"""Options of the shard job."""

import pytest

from persam_ray.cli.command_line import parse
from persam_ray.errors import ConfigError
from persam_ray.options.shard import ShardConfig

PLACES = ("--images", "photos", "--output", "out")


@pytest.mark.parametrize("size", ["0", "10001"])
def test_the_size_of_a_shard_has_limits(size: str) -> None:
    with pytest.raises(ConfigError, match=f"--images-per-shard must be between 1 and 10000, but is {size}"):
        parse(ShardConfig, [*PLACES, "--images-per-shard", size])
