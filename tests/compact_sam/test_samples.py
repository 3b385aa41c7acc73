"""What a compact SAM learns from: crops, targets, first prompts."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from persam_ray.compact_sam.packed_scenes import pack
from persam_ray.compact_sam.samples import (
    BESIDE_POINT,
    BOX_CORNERS,
    CELL_PX,
    LEAST_CELLS,
    ON_POINT,
    PADDING_POINT,
    Sample,
    SampleSettings,
    make_sample,
    noised,
)
from persam_ray.demo.scenes import Scene, draw_scene
from persam_ray.masks import tight_box

SIZE_PX = 128
SAMPLES = SampleSettings(image_size_px=SIZE_PX, targets=4)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(seed, (168, 116)) for seed in range(4)]


def same(first: Sample, second: Sample) -> bool:
    pairs = zip(*({**vars(sample), **vars(sample.layout)}.items() for sample in (first, second)), strict=True)
    return all(name == "layout" or np.array_equal(one, other) for (name, one), (_, other) in pairs)


def test_samples_follow_from_the_seed(scenes: list[Scene]) -> None:
    first, again, other = (make_sample(scenes[0], SAMPLES, seed) for seed in (5, 5, 6))
    assert same(first, again)
    assert not same(first, other)
    assert not np.array_equal(first.image_hw3, other.image_hw3)


def test_prompts_and_masks_of_a_sample_agree(scenes: list[Scene]) -> None:
    kinds: Counter[tuple[int, ...]] = Counter()
    for seed in range(30):
        sample = make_sample(scenes[seed % len(scenes)], SAMPLES, seed)
        height, width, _ = sample.image_hw3.shape
        assert max(height, width) == SIZE_PX == sample.size_px
        assert len(sample.masks_khw) == SAMPLES.targets
        assert not sample.masks_khw[:, -(-height // CELL_PX) :].any()  # the padding belongs to no target
        assert not sample.masks_khw[:, :, -(-width // CELL_PX) :].any()
        for mask_hw, xy_t2, labels_t in zip(sample.masks_khw, sample.xy_kt2, sample.labels_kt, strict=True):
            assert mask_hw.sum() >= LEAST_CELLS
            kinds[tuple(labels_t.tolist())] += 1
            if labels_t[0] == BOX_CORNERS[0]:
                box = np.array(tight_box(mask_hw)) * CELL_PX
                assert np.abs(box - xy_t2.ravel()).max() <= 20 / 1024 * SIZE_PX + 1e-3
                continue
            (x, y), (beside_x, beside_y) = xy_t2.astype(int)
            assert mask_hw[y // CELL_PX, x // CELL_PX]
            if labels_t[1] == BESIDE_POINT:
                assert not mask_hw[beside_y // CELL_PX, beside_x // CELL_PX]
                assert beside_y < height
                assert beside_x < width
    shares = {kind: count / kinds.total() for kind, count in kinds.items()}
    assert shares.keys() == {(ON_POINT, PADDING_POINT), (ON_POINT, BESIDE_POINT), BOX_CORNERS}
    assert all(
        abs(share - expected) < 0.15 for share, expected in zip(sorted(shares.values()), (0.2, 0.4, 0.4), strict=True)
    )


def test_a_mask_that_fills_the_photo_has_no_point_beside_it(scenes: list[Scene]) -> None:
    whole = replace(striped(scenes[0]), object_map_hw=np.ones((128, 128), dtype=np.int16), object_groups=(0, 0))
    kinds = {tuple(labels.tolist()) for seed in range(20) for labels in make_sample(whole, SAMPLES, seed).labels_kt}
    assert kinds == {(ON_POINT, PADDING_POINT), BOX_CORNERS}


def test_a_packed_scene_gives_the_same_sample(scenes: list[Scene]) -> None:
    assert same(make_sample(pack(scenes[0]), SAMPLES, 3), make_sample(scenes[0], SAMPLES, 3))


def test_a_noised_box_moves_by_a_tenth_of_its_sides() -> None:
    boxes = np.tile(np.array([[100, 100, 150, 120]], dtype=np.float32), (4000, 1))
    moved = noised(boxes, 1024, np.random.default_rng(0)) - boxes
    np.testing.assert_allclose(moved.std(axis=0), [5, 2, 5, 2], rtol=0.05)
    assert np.abs(moved).max() <= 20


def test_a_dyed_photo_has_other_colours_in_each_object_and_no_other_object(scenes: list[Scene]) -> None:
    gray = replace(striped(scenes[0]), image_hw3=np.full((128, 128, 3), 100, dtype=np.uint8))
    plain, dyed = (make_sample(gray, replace(SAMPLES, zoom=1, colour=0, dyed=dyed), 3) for dyed in (0, 1))
    assert (plain.image_hw3 == 100).all()
    colours = [np.unique(stripe.reshape(-1, 3), axis=0) for stripe in np.split(dyed.image_hw3, 4)]
    assert [len(colour) for colour in colours] == [1, 1, 1, 1]
    assert len(np.unique(np.concatenate(colours), axis=0)) == 4
    assert np.array_equal(plain.layout.things_hw, dyed.layout.things_hw)
    assert np.array_equal(plain.layout.things_hw[:, 0], np.repeat([1, 2, 3, 4], 2))


def striped(scene: Scene) -> Scene:
    """Four stripes: 1 and 2 touch and are one person, 3 is another's, 4 is nobody's; 0 has no pixel."""
    stripes = np.repeat([1, 2, 3, 4], 32)[:, None].repeat(128, axis=1).astype(np.int16)
    image_hw3 = np.zeros((128, 128, 3), dtype=np.uint8)
    return replace(
        scene, image_hw3=image_hw3, object_map_hw=stripes, object_labels=("",) * 5, object_groups=(0, 1, 1, 2, 0)
    )


def test_targets_are_objects_groups_and_unions_within_a_group(scenes: list[Scene]) -> None:
    settings = SampleSettings(image_size_px=SIZE_PX, targets=20, zoom=1)
    sample = make_sample(striped(scenes[0]), settings, seed=0)
    found = {tuple(mask_hw[4::8, 0].astype(int)) for mask_hw in sample.masks_khw}
    assert found == {(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (1, 1, 0, 0)}


def test_photo_and_masks_are_cropped_and_mirrored_alike(scenes: list[Scene]) -> None:
    striped_scene = striped(scenes[0])
    image_hw3 = (striped_scene.object_map_hw.T * 60).astype(np.uint8)[:, :, None].repeat(3, axis=2)
    upright = replace(
        striped_scene, object_map_hw=striped_scene.object_map_hw.T, image_hw3=image_hw3, object_groups=(0,) * 5
    )
    orders = set()
    for seed in range(8):
        sample = make_sample(upright, replace(SAMPLES, colour=0.0), seed)
        grays = sample.image_hw3[2::CELL_PX, 2::CELL_PX, 0]
        for mask_hw in sample.masks_khw:
            assert np.ptp(np.quantile(grays[mask_hw], [0.2, 0.8])) <= 1  # at a stripe's edge resizing mixes two
        orders.add(bool(grays[0, 0] < grays[0, -1]))
    assert orders == {False, True}


def test_a_scene_of_crumbs_is_refused(scenes: list[Scene]) -> None:
    crumbs = np.arange(128 * 128, dtype=np.int64).reshape(128, 128) % 1000
    scene = replace(striped(scenes[0]), object_map_hw=crumbs.astype(np.int16), object_groups=(0,) * 1000)
    with pytest.raises(ValueError, match="no object of the scene has 12 cells at 128 pixels"):
        make_sample(scene, SAMPLES, seed=0)
