"""Options of the training of the compact SAM."""

import pytest

from persam_ray.errors import ConfigError
from persam_ray.options.train_sam import TrainSamConfig


def test_workers_share_whole_scenes() -> None:
    assert TrainSamConfig(output="out", workers=2, photos_per_step=4).settings.photos_per_step == 4
    with pytest.raises(ConfigError, match=r"--photos-per-step must be a multiple of twice --workers \(4\), but is 6"):
        TrainSamConfig(output="out", workers=2, photos_per_step=6)
