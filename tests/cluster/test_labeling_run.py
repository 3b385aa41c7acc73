import pytest

from persam_ray.cluster.labeling_run import TooManyFailuresError, check_failures
from persam_ray.runs.counts import Counts


def test_a_run_that_goes_wrong_is_stopped() -> None:
    check_failures(Counts(99, 0, 99), 0.1)  # too early to tell
    check_failures(Counts(200, 180, 20), 0.1)
    with pytest.raises(
        TooManyFailuresError, match=r"21 of the first 200 images failed \(21 damaged\): more than --max-"
    ):
        check_failures(Counts(200, 179, 21, 0, {"damaged": 21}), 0.1)
