"""How a compact SAM is measured on scenes that it never saw."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from persam_ray.compact_sam.measures import central_pixel, evaluate, targets
from persam_ray.compact_sam.network import new_compact_sam, to_compact_checkpoint
from persam_ray.demo.scenes import Scene, draw_scene
from persam_ray.masks import tight_box
from persam_ray.sam.model import Sam
from persam_ray.types import Checkpoint, Frame, MaskCandidates, Points


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(seed, (168, 116)) for seed in range(2)]


def striped(scene: Scene) -> Scene:
    """Four stripes: 1 and 2 touch and are one person, 3 is another's, 4 is nobody's; 0 has no pixel."""
    stripes = np.repeat([1, 2, 3, 4], 32)[:, None].repeat(128, axis=1).astype(np.int16)
    image_hw3 = np.zeros((128, 128, 3), dtype=np.uint8)
    return replace(
        scene, image_hw3=image_hw3, object_map_hw=stripes, object_labels=("",) * 5, object_groups=(0, 1, 1, 2, 0)
    )


class Oracle(Sam):
    """Answers from the scene: one of three candidates is right, if the prompt is on the object."""

    def __init__(self, scene: Scene) -> None:
        self.image_size_px, self.device = 2 * max(scene.object_map_hw.shape), torch.device("cpu")
        self.masks = targets(scene)

    def encode(self, resized: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.zeros(len(resized), 1, 1, 1)

    def decode(self, features_bchw: torch.Tensor, points: Points, **prompts: Any) -> MaskCandidates:
        boxes = prompts["box_n4"]
        answers = []
        for index in range(len(features_bchw)):
            if boxes is None:
                x, y = (points.xy_np2[index, 0] // 2).long().tolist()
                mask = next(mask for mask in self.masks if mask[y, x])
            else:
                mask = next(mask for mask in self.masks if np.allclose(np.array(tight_box(mask)) * 2, boxes[index]))
            answers.append(np.stack([mask & False, mask, ~mask]))
        return MaskCandidates(torch.tensor(np.array(answers)).float() - 0.5, torch.zeros(len(answers), 3))

    def to_original(self, low_khw: torch.Tensor, frame: Frame) -> torch.Tensor:  # noqa: ARG002 (already in its frame)
        return low_khw


def test_the_measure_of_a_perfect_model_is_one(scenes: list[Scene]) -> None:
    scene = replace(striped(scenes[0]), object_groups=(0, 0, 0, 0, 0), group_labels=("",))
    quality = evaluate(Oracle(scene), [scene])
    assert (quality.by_point, quality.by_box, quality.targets) == (1.0, 1.0, 4)
    assert (quality.summed_by_point, quality.summed_by_box) == (1.0, 1.0)


def test_a_large_object_counts_more_in_the_sum_and_as_much_in_the_mean(scenes: list[Scene]) -> None:
    stripes = np.repeat([1, 2], [96, 32])[:, None].repeat(128, axis=1).astype(np.int16)
    two = replace(
        striped(scenes[0]), object_map_hw=stripes, object_labels=("",) * 3, object_groups=(0, 0, 0), group_labels=("",)
    )
    oracle = Oracle(two)
    oracle.to_original = lambda low_khw, _frame: low_khw if low_khw[1, 0, 0] > 0 else low_khw * 0 - 1  # type: ignore[method-assign, assignment]
    quality = evaluate(oracle, [two])  # the small one is never found
    assert (quality.by_point, quality.by_box, quality.targets) == (0.5, 0.5, 2)
    assert (quality.summed_by_point, quality.summed_by_box) == (0.75, 0.75)


def test_an_untrained_model_is_measured_on_objects_and_groups(scenes: list[Scene]) -> None:
    tensors, metadata = to_compact_checkpoint(new_compact_sam("mobilenetv3_small_050", 128, seed=0))
    quality = evaluate(Sam(Checkpoint(tensors, metadata)), scenes[:2])
    assert 0 <= quality.by_point < 0.5
    assert 0 <= quality.by_box < 0.5
    assert quality.targets == sum(len(targets(scene)) for scene in scenes[:2]) > 10


def test_no_target_cannot_be_measured(scenes: list[Scene]) -> None:
    with pytest.raises(ValueError, match=r"no object of the scenes covers 0\.2%"):
        evaluate(Oracle(scenes[0]), [])


def test_the_central_pixel_is_farthest_from_every_border() -> None:
    mask = np.zeros((20, 30), dtype=np.bool_)
    mask[:, :9] = True  # the photo's edge is a border: the middle of the stripe, not its left edge
    x, y = central_pixel(mask)
    assert x == 4
    assert 4 <= y <= 15
