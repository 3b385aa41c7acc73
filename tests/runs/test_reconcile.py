"""What is left to do, told from keys and versions alone."""

from collections.abc import Sequence

import numpy as np
import pytest

from persam_ray.runs.counts import Counts
from persam_ray.runs.parts import Part
from persam_ray.runs.reconcile import Verdict, reconcile


def part(name: str, *rows: tuple[int, int], judged: bytes | None = None) -> Part:
    keys, versions = np.array(rows, np.uint64).reshape(-1, 2).T
    return Part(name, keys, versions, Counts(len(rows), len(rows)), judged)


def compared(
    shards: Sequence[Sequence[tuple[int, int]]], *parts: Part
) -> tuple[Verdict, list[int], dict[str, list[int] | None]]:
    pairs = np.array([pair for shard in shards for pair in shard], np.uint64).reshape(-1, 2)
    verdict, done = reconcile(pairs[:, 0], pairs[:, 1], np.array([len(shard) for shard in shards]), parts)
    return verdict, done.tolist(), {name: None if keys is None else keys.tolist() for name, keys in verdict.drops}


def test_what_has_a_row_of_its_version_is_done_and_its_shards_are_not_read() -> None:
    verdict, done, drops = compared(
        [[(5, 1), (3, 1)], [(9, 1), (2, 1)], [], [(7, 1)]], part("p", (3, 1), (5, 1), (9, 1))
    )
    assert (verdict.left, done, drops, verdict.open_shards) == (2, [3, 5, 9], {}, (1, 3))
    assert verdict.counts == Counts(3, 3)


def test_all_done_is_nothing_left() -> None:
    verdict, _, _ = compared([[(1, 1)], [(2, 1)]], part("p", (1, 1)), part("q", (2, 1)))
    assert (verdict.left, verdict.open_shards) == (0, ())


def test_a_changed_photo_loses_its_row_and_no_other_does() -> None:
    verdict, done, drops = compared([[(1, 1), (2, 8), (3, 1)]], part("p", (1, 1), (2, 7)), part("q", (3, 1)))
    assert (done, drops) == ([1, 3], {"p": [2]})
    assert (verdict.left, verdict.changed, verdict.removed, verdict.counts) == (1, 1, 0, Counts(1, 1))


def test_an_unread_photo_is_tried_again() -> None:
    verdict, done, drops = compared([[(1, 1), (2, 5)]], part("p", (1, 1), (2, 0)))
    assert (verdict.left, verdict.changed, done, drops) == (1, 1, [1], {"p": [2]})


def test_rows_of_photos_that_are_gone_stay_and_are_counted() -> None:
    verdict, done, drops = compared([[(1, 1)]], part("p", (1, 1), (4, 1), (6, 1)))
    assert (verdict.left, verdict.removed, done, drops) == (0, 2, [1], {})


def test_of_two_rows_of_a_photo_one_stays() -> None:
    verdict, done, drops = compared([[(1, 1), (2, 1)]], part("old", (1, 1), (2, 1)), part("rest", (1, 1)))
    assert (verdict.left, verdict.changed, done, drops) == (0, 0, [1, 2], {"rest": None})


@pytest.mark.parametrize("stale_first", [True, False])
def test_of_a_stale_and_a_good_row_the_good_one_stays(stale_first: bool) -> None:
    parts = [part("stale", (1, 7), (2, 1)), part("good", (1, 8))]
    verdict, done, drops = compared([[(1, 8), (2, 1)]], *(parts if stale_first else parts[::-1]))
    assert (verdict.left, done, drops) == (0, [1, 2], {"stale": [1]})


def test_a_part_with_ground_truth_is_dropped_whole() -> None:
    judged, other = part("judged", (1, 1), (2, 7), judged=b"1"), part("other", (3, 1), judged=b"2")
    verdict, done, drops = compared([[(1, 1), (2, 8), (3, 1)]], judged, other)
    assert (verdict.left, verdict.changed, done, drops) == (2, 1, [3], {"judged": None})
    assert (verdict.judged, verdict.counts) == ((b"2",), Counts(1, 1))


def test_of_a_part_with_ground_truth_the_rows_of_photos_that_are_gone_stay() -> None:
    verdict, done, drops = compared([[(1, 1), (2, 8)]], part("judged", (1, 1), (4, 1), (2, 7), judged=b"1"))
    assert (verdict.images, verdict.left, verdict.removed, done, drops) == (2, 2, 1, [], {"judged": [1, 2]})


def test_what_a_killed_rewriting_left_behind_goes_whole() -> None:
    old, rest = part("old", (1, 1), (2, 1), (3, 7)), part("rest", (1, 1), (2, 1))
    _verdict, done, drops = compared([[(1, 1), (2, 1), (3, 8)]], old, rest)
    assert (done, drops) == ([1, 2], {"old": [3], "rest": None})  # and first: `old` without 3 is called `rest`


def test_every_photo_is_done_or_left_whatever_is_there() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        listed = [(int(key), int(random.integers(1, 3))) for key in random.permutation(12)[: random.integers(1, 12)]]
        parts = [
            part(
                f"{index}",
                *((int(key), int(random.integers(0, 3))) for key in random.permutation(14)[: random.integers(1, 6)]),
            )
            for index in range(random.integers(1, 5))
        ]
        verdict, done, drops = compared([listed[:3], listed[3:]], *parts)
        kept = [
            (key, version)
            for own in parts
            for key, version in zip(own.keys.tolist(), own.versions.tolist(), strict=True)
            if own.name not in drops or key not in (drops[own.name] or own.keys.tolist())
        ]
        assert len({key for key, _ in kept}) == len(kept), "a photo has two rows"
        assert sorted(key for key, version in kept if (key, version) in listed) == done
        assert len(done) + verdict.left == len(listed) == verdict.images
        assert len(kept) == len(done) + verdict.removed
