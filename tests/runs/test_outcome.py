"""What the writers' summaries come to: each file counts once, whatever was tried again."""

from typing import Any

import pytest

from persam_ray.runs.counts import Counts
from persam_ray.runs.directory import OutputError
from persam_ray.runs.effort import CacheUse, Effort
from persam_ray.runs.outcome import add_up, check_complete


def summary(file: str, images: int, effort: Effort, run: str = "") -> dict[str, Any]:
    counts = Counts(images=images, ok=images, instances=images)
    return {"run": run, "file": file, "counts": counts.to_json(), "judged": None, "effort": effort.to_json()}


FIRST = Effort({"decode": 1.0, "encode": 2.0}, CacheUse(hits=1, misses=2))
SECOND = Effort({"encode": 4.0, "write": 0.5}, CacheUse(misses=3, not_kept=1, failure="gone"))


def test_summaries_are_added_up_by_run() -> None:
    rows = [summary("a", 3, FIRST), summary("b", 4, SECOND), summary("a", 5, SECOND, "other")]
    outcomes = add_up(rows)
    assert outcomes.keys() == {"", "other"}
    assert outcomes[""].counts.images == 7
    assert outcomes[""].effort == Effort(
        {"decode": 1.0, "encode": 6.0, "write": 0.5}, CacheUse(hits=1, misses=5, not_kept=1, failure="gone")
    )
    assert outcomes["other"].effort == SECOND


def test_what_was_judged_is_gathered_by_run() -> None:
    rows = [summary(name, 1, FIRST) | {"judged": judged} for name, judged in (("a", b"1"), ("b", None), ("c", b"2"))]
    assert add_up(rows)[""].judged == (b"1", b"2")


def test_no_summary_is_no_image() -> None:
    assert add_up([]) == {}


def test_a_file_that_a_retried_task_has_written_again_counts_once_with_the_effort_of_its_last_rows() -> None:
    outcome = add_up([summary("a", 3, SECOND), summary("b", 4, FIRST), summary("a", 3, FIRST)])[""]
    assert outcome.counts.images == 7
    assert outcome.effort == FIRST + FIRST


def test_fewer_rows_than_images_is_no_complete_run() -> None:
    check_complete(Counts(10, 9, 1, 12), 10)
    with pytest.raises(OutputError, match="10 images were listed, but 9 rows written"):
        check_complete(Counts(9, 9, 0, 12), 10)
