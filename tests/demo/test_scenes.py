"""Synthetic street photos: reproducible, exactly annotated, varied, and readable by every job."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from persam_ray.compact_sam.packed_scenes import draw_views
from persam_ray.data.deepfashion import DEEPFASHION_CATEGORIES
from persam_ray.data.listing import open_dataset
from persam_ray.demo.dataset import is_written, write_scene
from persam_ray.demo.palettes import rgb
from persam_ray.demo.scenes import CLASS_INDICES, Scene, draw_scene
from persam_ray.demo.shapes import along, ellipse, points, tube
from persam_ray.types import BoolArray

SMALL_HW = (140, 96)
SEEDS = range(60)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(seed, SMALL_HW) for seed in SEEDS]


def share(scenes: list[Scene], category: str) -> float:
    return sum(bool((scene.index_hw == CLASS_INDICES[category]).any()) for scene in scenes) / len(scenes)


def grown(mask_hw: BoolArray, by: int) -> BoolArray:
    """Dilate by a square; by hand, so that nothing of the generator's drawing is used."""
    padded = np.pad(mask_hw, by)
    height, width = mask_hw.shape
    steps = [(y, x) for y in range(2 * by + 1) for x in range(2 * by + 1)]
    return np.asarray(np.logical_or.reduce([padded[y : y + height, x : x + width] for y, x in steps]))


def test_a_seed_gives_the_same_bytes_and_another_seed_others(scenes: list[Scene]) -> None:
    again = draw_scene(7, SMALL_HW)
    assert again.jpeg == scenes[7].jpeg
    assert (again.object_labels, again.object_groups) == (scenes[7].object_labels, scenes[7].object_groups)
    assert np.array_equal(again.index_hw, scenes[7].index_hw)
    assert np.array_equal(again.object_map_hw, scenes[7].object_map_hw)
    assert len({scene.jpeg for scene in scenes}) == len(scenes)


def test_what_is_left_out_shows_what_it_hid_and_changes_nothing_else(scenes: list[Scene]) -> None:
    uncovered = 0
    for seed in range(8):
        whole, less = scenes[seed], draw_scene(seed, SMALL_HW, left_out=0.3)
        assert (less.object_labels, less.object_groups) == (whole.object_labels, whole.object_groups)
        changed_hw = less.object_map_hw != whole.object_map_hw
        left_out = set(np.unique(whole.object_map_hw[changed_hw]))
        assert left_out.isdisjoint(np.unique(less.object_map_hw))
        assert all(whole.object_groups[number] > 0 for number in left_out)
        uncovered += len(set(np.unique(less.object_map_hw)) - set(np.unique(whole.object_map_hw)))
    assert uncovered
    bare = draw_scene(3, SMALL_HW, left_out=1)
    assert not any(bare.object_groups[number] for number in np.unique(bare.object_map_hw))


def test_clothes_of_other_fabrics_lie_where_they_lay(scenes: list[Scene]) -> None:
    moved: dict[str, list[float]] = {label: [] for label in ("top", "skin", "face", "hair")}
    for seed in range(8):
        before, after = scenes[seed], draw_scene(seed, SMALL_HW, other_fabrics=1)
        assert np.array_equal(after.object_map_hw, before.object_map_hw)
        assert (after.object_labels, after.object_groups) == (before.object_labels, before.object_groups)
        away_hw = np.abs(after.image_hw3.astype(np.int16) - before.image_hw3).mean(axis=2)
        for label, levels in moved.items():
            levels.extend(away_hw[before.index_hw == CLASS_INDICES[label]])
    mean = {label: float(np.mean(levels)) for label, levels in moved.items()}
    assert mean["top"] > 30
    assert max(mean["skin"], mean["face"], mean["hair"]) < 12  # light that spreads: blur, JPEG's colours


def test_the_second_view_lacks_objects_and_shows_others_in_other_colours(scenes: list[Scene]) -> None:
    lacking, recoloured = 0, 0
    for seed in range(8):
        first, second = draw_views(seed, SMALL_HW)
        assert first.jpeg == scenes[seed].jpeg
        lacking += len(set(np.unique(first.object_map_hw)) - set(np.unique(second.object_map_hw)))
        top_hw = (first.index_hw == CLASS_INDICES["top"]) & (first.object_map_hw == second.object_map_hw)
        away_hw = np.abs(first.image_hw3.astype(np.int16) - second.image_hw3).mean(axis=2)
        recoloured += bool(top_hw.any()) and away_hw[top_hw].mean() > 30
    assert lacking >= 8
    assert recoloured


def test_other_random_numbers_of_the_process_do_not_matter() -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002  # the global state is what is tested
    draw_scene(3, SMALL_HW)
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002


@pytest.mark.parametrize("size_hw", [SMALL_HW, (200, 151)])
def test_photo_and_maps_have_the_asked_size(size_hw: tuple[int, int]) -> None:
    scene = draw_scene(5, size_hw)
    assert scene.image_hw3.shape == (*size_hw, 3)
    assert scene.image_hw3.dtype == np.uint8
    assert scene.index_hw.shape == scene.object_map_hw.shape == size_hw
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(scene.jpeg))), scene.image_hw3)


def test_the_index_map_holds_deepfashions_classes(scenes: list[Scene]) -> None:
    assert {DEEPFASHION_CATEGORIES[index] for index in CLASS_INDICES.values()} == set(CLASS_INDICES)
    found = set().union(*(np.unique(scene.index_hw).tolist() for scene in scenes))
    assert found <= {0, *CLASS_INDICES.values()}
    assert all(scene.index_hw.dtype == np.uint8 for scene in scenes)


def test_what_people_wear_varies_as_on_the_street(scenes: list[Scene]) -> None:
    assert 0.6 <= share(scenes, "top") <= 0.9
    least = {
        "dress": 0.15, "outer": 0.35, "bag": 0.45, "pants": 0.4, "skirt": 0.1, "footwear": 0.6, "headwear": 0.04,
        "eyeglass": 0.15, "hair": 0.85, "face": 0.97, "skin": 0.97,
    }  # fmt: skip
    assert {category: share(scenes, category) for category in least if share(scenes, category) < least[category]} == {}
    assert 0.08 <= sum(scene.people == 2 for scene in scenes) / len(scenes) <= 0.3
    assert len(Counter(scene.place for scene in scenes)) == 5


def test_some_garments_are_cut_into_parts_by_what_lies_in_front(scenes: list[Scene]) -> None:
    hidden = 0
    for scene in scenes:
        rows_with_gap = np.diff((scene.index_hw == CLASS_INDICES["top"]).astype(np.int8), axis=1) == 1
        hidden += bool((rows_with_gap.sum(axis=1) >= 2).any())
    assert hidden / len(scenes) > 0.2


def test_objects_share_no_pixel_and_cover_the_picture(scenes: list[Scene]) -> None:
    for scene in scenes:
        masks = np.array([mask for _, mask in scene.objects])
        assert (masks.sum(axis=0) == 1).all()
        assert masks.any(axis=(1, 2)).all()
        assert "nothing" not in {label for label, _ in scene.objects}, "a pixel that nothing was painted on"


def test_a_person_is_a_group_of_its_labelled_parts(scenes: list[Scene]) -> None:
    for scene in scenes:
        people = [mask for label, mask in scene.groups if label == "person"]
        assert len(people) == scene.people
        assert np.array_equal(np.logical_or.reduce(people), scene.index_hw > 0)


def test_passers_by_and_dressed_forms_are_objects_but_not_labelled(scenes: list[Scene]) -> None:
    groups = [(scene, label, mask) for scene in scenes for label, mask in scene.groups]
    found = Counter(label for _, label, _ in groups)
    assert found["passer-by"] > 20
    assert found["mannequin"] > 3
    assert all((scene.index_hw[mask] == 0).all() for scene, label, mask in groups if label != "person")


def test_a_top_usually_differs_in_colour_from_what_is_around_it(scenes: list[Scene]) -> None:
    differences = []
    for scene in scenes:
        top = scene.index_hw == CLASS_INDICES["top"]
        around = grown(top, 4) & ~grown(top, 1)
        if top.sum() > 60:
            differences.append(np.abs(scene.image_hw3[top].mean(axis=0) - scene.image_hw3[around].mean(axis=0)).max())
    assert len(differences) > 25
    assert np.mean(np.array(differences) > 20) > 0.7


def test_edges_of_masks_lie_on_edges_of_the_photo() -> None:
    """A mask that is shifted by three pixels fits worse: colours inside are less uniform."""
    better = 0
    for seed in range(12):
        scene = draw_scene(seed, (280, 192))
        person = scene.index_hw > 0
        edge = grown(person, 1) & ~person
        step = np.abs(np.diff(scene.image_hw3.astype(np.int16), axis=1, prepend=0)).sum(axis=2)
        better += step[edge].mean() > 1.3 * step[np.roll(edge, 6, axis=1)].mean()
    assert better >= 10


def test_written_scenes_are_a_deepfashion_dataset(tmp_path: Path) -> None:
    for seed in (4, 5, 6):
        assert not is_written(tmp_path, seed)
        write_scene(tmp_path, seed, SMALL_HW)
        assert is_written(tmp_path, seed)
    dataset = open_dataset(str(tmp_path))
    assert dataset.format == "deepfashion"
    rows = [row for shard in dataset.shards for table in shard.read() for row in table.to_pylist()]
    assert [row["image_id"] for row in rows] == [f"scene_{seed:06d}.jpg" for seed in (4, 5, 6)]
    for seed, row in zip((4, 5, 6), rows, strict=True):
        scene = draw_scene(seed, SMALL_HW)
        assert row["error"] is None
        assert row["image"] == scene.jpeg
        assert {annotation["category"]: annotation["area"] for annotation in row["annotations"]} == {
            category: np.count_nonzero(scene.index_hw == index)
            for category, index in CLASS_INDICES.items()
            if (scene.index_hw == index).any()
        }


def test_a_tube_is_as_wide_as_asked_and_one_outline_per_stretch() -> None:
    stretches = tube(points((0, 0), (10, 0), (20, 0)), (2, 2, 2))
    assert len(stretches) == 2
    assert np.concatenate(stretches).max(axis=0) == pytest.approx((22, 2))
    assert np.concatenate(stretches).min(axis=0) == pytest.approx((-2, -2))


def test_along_stops_at_the_share_of_a_paths_length() -> None:
    assert along(points((0, 0), (4, 0), (4, 4)), 0.75) == pytest.approx(points((0, 0), (4, 0), (4, 2)))


def test_an_ellipse_turns_around_its_center() -> None:
    assert np.ptp(ellipse(points((5, 5))[0], 4, 1, np.pi / 2), axis=0) == pytest.approx((2, 8))


def test_colours_are_read_as_red_green_blue() -> None:
    assert rgb("ff8000").tolist() == [255, 128, 0]
