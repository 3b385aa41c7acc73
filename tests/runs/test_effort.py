from persam_ray.runs.effort import CacheUse, Effort

EFFORT = Effort({"encode": 4.0, "write": 0.5}, CacheUse(misses=3, not_kept=1, failure="gone"))


def test_an_effort_survives_its_text() -> None:
    assert Effort.from_json(EFFORT.to_json()) == EFFORT
    assert Effort() + EFFORT == EFFORT
