from typing import Any

import pytest

from persam_ray.mask_rcnn.settings import FewShotSettings


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"photos_per_step": 0}, {"learning_rate": 0.0}, {"warmup": 1.5}, {"scale": 0.9}, {"hue": 0.6}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        FewShotSettings(**wrong)
