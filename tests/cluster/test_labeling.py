"""How a run is cut into calls and files; what it does is tested on a cluster."""

import pytest

from persam_ray.cluster.labeling import CALLS_PER_ACTOR, ROWS_PER_CALL, _rows_per_call, _rows_per_file


@pytest.mark.parametrize(
    ("images", "actors", "batch_size"), [(1, 2, 1), (24, 2, 1), (48, 2, 1), (240, 2, 1), (600, 4, 8)]
)
def test_a_small_run_is_cut_finely_enough_that_all_actors_work(images: int, actors: int, batch_size: int) -> None:
    rows = _rows_per_call(images, actors, batch_size)
    assert rows == batch_size or images / rows >= actors * CALLS_PER_ACTOR
    assert rows % batch_size == 0


def test_a_large_run_is_cut_in_whole_batches() -> None:
    assert _rows_per_call(10**6, 2, 1) == ROWS_PER_CALL
    assert _rows_per_call(10**6, 2, 12) == 24
    assert _rows_per_call(10**6, 2, 32) == 32


def test_files_grow_with_the_run_so_that_little_is_lost_and_they_are_not_too_many() -> None:
    assert [_rows_per_file(images) for images in (1, 300, 100_000, 10**6, 10**8)] == [16, 16, 100, 1000, 1024]
