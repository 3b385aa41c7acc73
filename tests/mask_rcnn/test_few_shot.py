"""Few-shot training of Mask R-CNN: examples, augmentation, steps that workers share, learning."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from persam_ray.data.checkpoints import read_checkpoint
from persam_ray.data.listing import open_dataset
from persam_ray.mask_rcnn.examples import Example, augment, prepare
from persam_ray.mask_rcnn.few_shot import TrainingImage, TrainingLosses, make_batch, make_optimiser
from persam_ray.mask_rcnn.model import MaskRcnn, build_mask_rcnn
from persam_ray.mask_rcnn.prediction import predict
from persam_ray.mask_rcnn.settings import FewShotSettings
from persam_ray.masks import tight_box
from persam_ray.training.examples import make_example
from persam_ray.types import Checkpoint
from tests.conftest import shared
from tests.few_photos import RED, SPEC, average_precision_50, photo, tiny_model, train, two_photos

START = "mobilenet_v2_imagenet.safetensors"

# --- examples --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_hw3": np.zeros((96, 128), np.uint8)}, r"'wide': the image must be uint8 of shape \(h, w, 3\)"),
        ({"masks_nhw": np.zeros((1, 128, 96), bool)}, r"masks must be bool of shape \(n, 96, 128\), but got bool of"),
        ({"masks_nhw": np.ones((1, 96, 128), np.uint8)}, "masks must be bool"),
        ({"labels_n": np.ones(2, np.int64)}, r"labels and iscrowd must be int64 and bool of shape \(1,\)"),
        ({"labels_n": np.ones(1, np.int32)}, "labels and iscrowd must be int64"),
        ({"labels_n": np.zeros(1, np.int64)}, r"labels start at 1 \(0 is the background\), but got \[0\]"),
        ({"masks_nhw": np.zeros((1, 96, 128), bool)}, "mask 0 is empty"),
    ],
)
def test_an_example_that_cannot_be_right_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(two_photos()[0], **wrong)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([photo("a", (0, 0, 9, 9)), photo("a", (0, 0, 9, 9))], "two examples have the image_id 'a'"),
        ([photo("a")], "none of the 1 examples holds an object of shape"),
        ([replace(photo("a", (0, 0, 9, 9)), labels_n=np.array([2]))], "label 2 is beyond the 1 categories"),
    ],
)
def test_examples_that_cannot_be_trained_on_are_refused(examples: list[Example], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(examples, SPEC, FewShotSettings())


def test_a_category_that_no_example_holds_is_named() -> None:
    spec = replace(SPEC, categories=("shape", "hat"))
    with pytest.raises(ValueError, match="none of the 2 examples holds an object of hat"):
        prepare(two_photos(), spec, FewShotSettings())


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"photos_per_step": 0}, {"learning_rate": 0.0}, {"warmup": 1.5}, {"scale": 0.9}, {"hue": 0.6}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        FewShotSettings(**wrong)


def test_crowds_are_no_objects_and_their_pixels_show_nothing() -> None:
    example = photo("a", (10, 10, 30, 30), (50, 50, 90, 120))
    crowded = replace(example, iscrowd_n=np.array([False, True]))
    prepared = prepare([crowded], SPEC, FewShotSettings())["a"]
    assert prepared.labels_n.tolist() == [1]
    np.testing.assert_array_equal(prepared.masks_nhw[0], example.masks_nhw[0])
    assert np.ptp(prepared.image_hw3[50:90, 50:120].reshape(-1, 3), axis=0).tolist() == [0, 0, 0]
    assert tuple(prepared.image_hw3[60, 60]) != RED
    np.testing.assert_array_equal(prepared.image_hw3[:50], example.image_hw3[:50])


def test_large_photos_are_reduced_once_to_what_the_largest_scale_needs() -> None:
    prepared = prepare([photo("a", (0, 0, 700, 900), size_hw=(960, 1280))], SPEC, FewShotSettings(scale=1.5))
    assert prepared["a"].image_hw3.shape == (144, 192, 3)


# --- augmentation ----------------------------------------------------------------------------------------------------


def test_masks_go_with_the_photo_and_boxes_with_the_masks() -> None:
    settings = FewShotSettings(scale=1.5, colour=0.0, hue=0.0)
    example = photo("a", (30, 20, 70, 60), size_hw=(192, 256))
    places = set()
    for seed in range(20):
        seen = augment(example, SPEC, settings, seed)
        red_hw = (seen.image_hw3.astype(int) - RED).__abs__().sum(axis=2) < 60
        mask_hw = seen.masks_nhw[0] if len(seen.masks_nhw) else np.zeros_like(red_hw)
        assert (mask_hw ^ red_hw).sum() <= 2 * (sum(seen.image_hw3.shape[:2]) // 4)  # the soft edge, one pixel wide
        image = TrainingImage.of(seen, seed)
        assert image.boxes_n4.tolist() == [list(tight_box(mask)) for mask in seen.masks_nhw]
        assert image.image_3hw.shape[1] <= 96
        assert image.image_3hw.shape[2] <= 128
        places.add(tuple(image.boxes_n4.flatten().tolist()))
    assert len(places) > 15  # of 20: two crops may both miss the object


def test_an_instance_that_a_crop_leaves_nothing_of_is_dropped_with_its_label() -> None:
    example = replace(photo("a", (0, 0, 10, 10), (40, 50, 60, 80)), labels_n=np.array([1, 2]))
    settings = FewShotSettings(scale=2.0)
    labels = [augment(example, SPEC, settings, seed).labels_n.tolist() for seed in range(30)]
    assert [1, 2] in labels  # the photo is smaller than the frame, or the crop lies at the corner
    assert [2] in labels


def test_random_choices_follow_from_seed_epoch_and_photo_alone() -> None:
    examples = [photo(name, (10, 10, 60, 60)) for name in ("a", "b", "c")]
    settings = FewShotSettings(photos_per_step=4)
    prepared = prepare(examples, SPEC, settings)
    whole = [make_batch(prepared, SPEC, settings, step) for step in range(3)]
    reread = prepare(examples[::-1], SPEC, settings)
    for step in range(3):
        shares = [make_batch(reread, SPEC, settings, step, rank, workers=2) for rank in range(2)]
        for image, again in zip(whole[step], [shares[0][0], shares[1][0], shares[0][1], shares[1][1]], strict=True):
            assert image.seed == again.seed
            torch.testing.assert_close(image.image_3hw, again.image_3hw, rtol=0, atol=0)
    assert len({image.seed for batch in whole for image in batch}) == 12  # 4 epochs of 3 photos, each seen once
    other = make_batch(prepared, SPEC, replace(settings, seed=1), 0)
    assert {image.seed for image in other}.isdisjoint(image.seed for image in whole[0])


def test_a_step_that_cannot_be_shared_evenly_is_refused() -> None:
    settings = FewShotSettings(photos_per_step=3)
    with pytest.raises(ValueError, match="3 photos per step cannot be shared evenly by 2 workers"):
        make_batch(prepare(two_photos(), SPEC, settings), SPEC, settings, 0, rank=1, workers=2)


# --- steps -----------------------------------------------------------------------------------------------------------


def gradients(losses: torch.nn.Module, batch: Sequence[TrainingImage]) -> dict[str, torch.Tensor]:
    losses.zero_grad()
    torch.stack(list(losses(batch).values())).sum().backward()
    named = (
        losses.module.named_parameters() if isinstance(losses, DistributedDataParallel) else losses.named_parameters()
    )
    return {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}


def assert_same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        difference = (found[name] - gradient).norm() / gradient.norm().clamp_min(1e-12)
        assert difference < 1e-9, f"{name} differs by {difference:.1e} of its length"


def exact_losses() -> TrainingLosses:
    """In float64: in float32 the rounding, which follows threads and memory, decides which boxes are sampled."""
    return TrainingLosses(tiny_model()).train().double()


def step_of_four() -> list[TrainingImage]:
    """Photos of several sizes, one of them without an object."""
    examples = [*two_photos(), photo("empty", size_hw=(80, 140)), photo("two", (5, 5, 40, 40), (50, 60, 90, 100))]
    settings = FewShotSettings(photos_per_step=4)
    return make_batch(prepare(examples, SPEC, settings), SPEC, settings, 0)


def test_gradients_of_two_halves_average_to_that_of_the_whole_step() -> None:
    losses, batch = exact_losses(), step_of_four()
    halves = [gradients(losses, half) for half in (batch[::2], batch[1::2])]
    mean = {name: (halves[0][name] + halves[1][name]) / 2 for name in halves[0]}
    torch.rand(5)  # the global generator has no say
    assert_same_gradients(mean, gradients(losses, batch))


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    losses = DistributedDataParallel(exact_losses())
    found = gradients(losses, step_of_four()[rank::2])
    if rank == 0:
        torch.save(found, f"{folder}/gradients.pt")
    distributed.destroy_process_group()


def test_two_workers_have_the_gradient_of_one(tmp_path: Path) -> None:
    spawn(_worker, args=(str(tmp_path),), nprocs=2)
    found = torch.load(tmp_path / "gradients.pt")
    expected = gradients(exact_losses(), step_of_four())
    assert_same_gradients(found, expected)


def test_frozen_layers_do_not_move_and_the_others_do(classifier: Checkpoint) -> None:
    model = tiny_model(classifier)
    before = copy.deepcopy(model.detector.state_dict())
    train(model, two_photos(), FewShotSettings(steps=2, warmup=0.0))
    after = model.detector.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    body = {name for name in moved if name.startswith("backbone.body.")}
    assert {int(name.split(".")[2]) for name in body} == set(range(7, 18))
    assert not any(".running_" in name for name in body)
    assert {"backbone.fpn.inner_blocks.0.0.weight", "roi_heads.mask_predictor.mask_fcn_logits.weight"} <= moved


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    settings = FewShotSettings(steps=100, warmup=0.1, learning_rate=2.0)
    optimiser, schedule = make_optimiser(torch.nn.Linear(2, 2), settings)
    rates = []
    for _ in range(101):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.2)  # a tenth
    assert max(rates) == pytest.approx(2.0, rel=0.03)
    assert np.argmax(rates) == 9
    assert all(later < earlier for earlier, later in pairwise(rates[9:]))
    assert rates[100] == pytest.approx(0)


def test_a_gradient_that_is_not_finite_stops_training() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.detector.rpn.head.cls_logits.bias.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="non-finite"):
        train(model, two_photos(), FewShotSettings(steps=1))


# --- learning --------------------------------------------------------------------------------------------------------


def test_two_photos_are_learned(shape_detector: MaskRcnn) -> None:
    found = predict(shape_detector, [example.image_hw3 for example in two_photos()])
    assert average_precision_50(two_photos(), found) >= 0.9


def test_the_same_seed_trains_the_same_model() -> None:
    settings = FewShotSettings(steps=2)
    models = [tiny_model(), tiny_model()]
    for model in models:
        train(model, two_photos(), settings)
    first, second = (model.detector.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_real_photos_are_learned_from_imagenet_weights() -> None:
    """Whole masks of tops, of which one is in two pieces."""
    folder, names = shared("fashion"), ("CCP-Street-id_00000001-01_full", "CCP-Street-id_00000003-01_full")
    dataset = open_dataset(str(folder)).only(f"{name}.jpg" for name in names)
    rows = [row for shard in dataset.shards for table in shard.read() for row in table.to_pylist()]
    examples = [make_example(row, ["shape"], "mask") for row in (as_shape(row) for row in rows)]
    model, report = build_mask_rcnn("mobilenet_v2", ["shape"], read_checkpoint(str(shared(START))))
    assert len(report.used) == 255
    train(model, examples, FewShotSettings(steps=50, learning_rate=5e-4))
    found = predict(model, [example.image_hw3 for example in examples])
    assert average_precision_50(examples, found) >= 0.9


def as_shape(row: dict[str, Any]) -> dict[str, Any]:
    """Call the tops of a row shapes."""
    tops = [annotation | {"category": "shape"} for annotation in row["annotations"] if annotation["category"] == "top"]
    return row | {"annotations": tops}
