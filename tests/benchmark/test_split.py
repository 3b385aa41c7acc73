"""Drawing images is tested through the benchmark job; here, that draws follow the seed and sets are disjoint."""

import pytest

from persam_ray.benchmark.split import check_categories, check_ids, draw_split, listed_split
from persam_ray.data.dataset import Dataset, DatasetError

NOTHING = Dataset("photos", "folder", (), 0)
ANNOTATED = {f"{index:02}": frozenset({"top"} if index % 2 else {"pants"}) for index in range(20)}
TRAIN = ("01", "03")


def test_test_images_are_all_others_in_a_drawn_order() -> None:
    split = draw_split(NOTHING, ANNOTATED, "top", TRAIN, 18, seed=0)
    assert set(split.test_ids) == ANNOTATED.keys() - set(TRAIN)
    assert list(split.test_ids) != sorted(split.test_ids)
    assert split.test_with_category == 8


def test_the_same_seed_draws_the_same_images_and_another_others() -> None:
    first, again, other = (draw_split(NOTHING, ANNOTATED, "top", TRAIN, 5, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.test_ids != other.test_ids


def test_fewer_draws_are_the_first_of_more() -> None:
    few, many = (draw_split(NOTHING, ANNOTATED, "top", TRAIN, count, seed=3) for count in (4, 9))
    assert many.test_ids[:4] == few.test_ids


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(DatasetError, match="19 test images were asked for, but beside the 2 training images only 18"):
        draw_split(NOTHING, ANNOTATED, "top", TRAIN, 19, seed=0)


def test_lists_are_taken_as_they_are() -> None:
    split = listed_split(ANNOTATED, "top", ["05"], ["02", "01"])
    assert (split.train_ids, split.test_ids, split.test_with_category) == (("05",), ("02", "01"), 1)


def test_unknown_ids_and_categories_are_named() -> None:
    check_ids(["01"], ANNOTATED, "photos")
    check_categories(["top", "pants"], ANNOTATED, "photos")
    with pytest.raises(DatasetError, match="photos: no annotated image has the id '99'"):
        check_ids(["01", "99"], ANNOTATED, "photos")
    with pytest.raises(DatasetError, match="holds the category 'hat'; seen: pants, top"):
        check_categories(["top", "hat"], ANNOTATED, "photos")
    with pytest.raises(DatasetError, match="seen: no category"):
        check_categories(["top"], {}, "photos")
