"""What a job says at its end."""

import pytest

from persam_ray.runs.effort import CacheOutcome, CacheUse
from persam_ray.runs.summary import tell_cache_use


def test_the_end_is_told_in_one_line_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    counts: dict[CacheOutcome, int] = {"hit": 7, "miss": 3, "not_kept": 2}
    outcomes = [outcome for outcome, count in counts.items() for _ in range(count)]
    use = CacheUse.of(outcomes, [None, "s3://me:pw@b/x: no", "another"])
    assert use == CacheUse(7, 5, 2, "s3://b/x: no")
    tell_cache_use("s3://me:pw@b", use)
    line = "feature cache s3://b: 7 photos found, 5 encoded; it is full (--feature-cache-gb), 2 were not kept; "
    assert capsys.readouterr().err == line + "it failed, and the run went on without: s3://b/x: no\n"
