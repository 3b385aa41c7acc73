"""Mask R-CNN and its few-shot training, on photos of 96 x 128 pixels with a red shape; the model starts at random."""

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel
from torchvision.models import mobilenet_v2
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.roi_heads import paste_masks_in_image

from persam_ray.detection import paste_masks, predict
from persam_ray.evaluation import ImagePair, PredictedInstance, TruthInstance, evaluate_shard
from persam_ray.evaluation_merge import accumulate
from persam_ray.few_shot import (
    Example,
    FewShotSettings,
    TrainingImage,
    TrainingLosses,
    augment,
    make_batch,
    make_optimiser,
    prepare,
    train_step,
)
from persam_ray.mask_rcnn import (
    MaskRcnn,
    MaskRcnnSpec,
    build_mask_rcnn,
    from_checkpoint,
    to_checkpoint,
)
from persam_ray.masks import encode_rle, tight_box
from persam_ray.types import BoolArray, Checkpoint, DetectionLimits, Segmentation

FRAME_PX = (96, 128)
SPEC = MaskRcnnSpec("mobilenet_v2", ("shape",), FRAME_PX)
RED = (220, 40, 30)


def photo(image_id: str, *boxes: tuple[int, int, int, int], size_hw: tuple[int, int] = (96, 128)) -> Example:
    """Draw a photo with red rectangles, given as top, left, bottom, right, each an instance."""
    image = np.random.default_rng(len(image_id)).integers(60, 120, (*size_hw, 3), dtype=np.uint8)
    masks = np.zeros((len(boxes), *size_hw), dtype=bool)
    for mask, (top, left, bottom, right) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
        image[mask] = RED
    return Example(image_id, image, masks, np.ones(len(boxes), np.int64), np.zeros(len(boxes), bool))


def two_photos() -> list[Example]:
    return [photo("wide", (40, 40, 80, 90)), photo("tall", (20, 70, 80, 110), size_hw=(128, 120))]


def tiny_model(start: Checkpoint | None = None) -> MaskRcnn:
    return build_mask_rcnn("mobilenet_v2", ["shape"], start, frame_px=FRAME_PX)[0]


def train(model: MaskRcnn, examples: Sequence[Example], settings: FewShotSettings) -> None:
    losses = TrainingLosses(model)
    prepared = prepare(examples, model.spec, settings)
    optimiser, schedule = make_optimiser(losses, settings)
    for step in range(settings.steps):
        train_step(losses, optimiser, schedule, make_batch(prepared, model.spec, settings, step), settings)


def average_precision_50(examples: Sequence[Example], found: Sequence[Sequence[Segmentation]]) -> float:
    pairs = [
        ImagePair(
            example.image_id,
            example.image_hw3.shape[:2],
            tuple(TruthInstance("shape", encode_rle(mask)) for mask in example.masks_nhw),
            tuple(PredictedInstance("shape", encode_rle(instance.mask_hw), instance.score) for instance in instances),
        )
        for example, instances in zip(examples, found, strict=True)
    ]
    summary, _ = evaluate_shard(pairs, ["shape"], score_threshold=0.5)
    return accumulate(summary).overall["ap50"]


@pytest.fixture(scope="module")
def trained() -> MaskRcnn:
    model = tiny_model()
    train(model, two_photos(), FewShotSettings(steps=80, learning_rate=1e-3, scale=1.2))
    return model


@pytest.fixture(scope="module")
def classifier() -> Checkpoint:
    """MobileNetV2 as torchvision saves it, random, with statistics of its own."""
    torch.manual_seed(3)
    state = {name: tensor.numpy() for name, tensor in mobilenet_v2().state_dict().items()}
    return Checkpoint({name: array + 0.1 if name.endswith("running_mean") else array for name, array in state.items()})


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
def test_an_example_that_cannot_be_right_is_refused(wrong: dict[str, np.ndarray], message: str) -> None:
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


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"photos_per_step": 0}, {"learning_rate": 0.0}, {"warmup": 1.5}, {"scale": 0.9}, {"hue": 0.6}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
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
    multiprocessing.spawn(_worker, args=(str(tmp_path),), nprocs=2)
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


def test_two_photos_are_learned(trained: MaskRcnn) -> None:
    found = predict(trained, [example.image_hw3 for example in two_photos()])
    assert average_precision_50(two_photos(), found) >= 0.9


def test_the_same_seed_trains_the_same_model() -> None:
    settings = FewShotSettings(steps=2)
    models = [tiny_model(), tiny_model()]
    for model in models:
        train(model, two_photos(), settings)
    first, second = (model.detector.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


# --- start weights ---------------------------------------------------------------------------------------------------


def test_a_classifier_fills_the_body_and_the_report_says_so(classifier: Checkpoint) -> None:
    model, report = build_mask_rcnn("mobilenet_v2", ["top"], classifier)
    # 18 of 19 modules of MobileNetV2's features; the last, and the classifier, have no place in a detector.
    unused = {name for name in report.unused if not name.endswith("num_batches_tracked")}
    assert {name.rsplit(".", 1)[0] for name in unused} == {"features.18.0", "features.18.1", "classifier.1"}
    assert all(name.startswith("backbone.body.") for name in report.used)
    assert not any(name.startswith("backbone.body.") for name in report.random)
    assert set(report.used) | set(report.random) == set(model.detector.state_dict())
    assert str(report).startswith(f"{len(report.used)} tensors filled")
    filled = model.detector.state_dict()["backbone.body.5.conv.1.1.running_mean"]
    np.testing.assert_array_equal(filled, classifier.tensors["features.5.conv.1.1.running_mean"])


def test_half_precision_weights_become_single(classifier: Checkpoint) -> None:
    halves = Checkpoint({name: array.astype(np.float16) for name, array in classifier.tensors.items()})
    model, _ = build_mask_rcnn("mobilenet_v2", ["top"], halves)
    assert {tensor.dtype for tensor in model.detector.state_dict().values()} == {torch.float32}


def test_a_detector_of_other_classes_fills_all_but_the_last_layers() -> None:
    # as torchvision publishes COCO's detector: 91 classes, BatchNorm statistics
    state = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=91).state_dict()
    start = Checkpoint({name: tensor.numpy() for name, tensor in state.items()})
    model, report = build_mask_rcnn("resnet50_fpn_v2", ["top", "bag"], start)
    last = {
        f"roi_heads.box_predictor.{layer}.{kind}" for layer in ("cls_score", "bbox_pred") for kind in ("weight", "bias")
    }
    last |= {f"roi_heads.mask_predictor.mask_fcn_logits.{kind}" for kind in ("weight", "bias")}
    assert set(report.unused) == set(report.random) == last
    assert (model.spec.body_norm, model.spec.head_norm) == ("frozen_batch", "frozen_batch")


def test_names_of_torchvisions_first_release_are_understood() -> None:
    model, _ = build_mask_rcnn("resnet50_fpn", ["top"], seed=1)
    tensors, metadata = to_checkpoint(model)
    old = {
        "rpn.head.conv.0.0.": "rpn.head.conv.",
        "roi_heads.mask_head.1.0.": "roi_heads.mask_head.mask_fcn2.",
        "backbone.fpn.layer_blocks.3.0.": "backbone.fpn.layer_blocks.3.",
    }
    for new_prefix, old_prefix in old.items():
        for kind in ("weight", "bias"):
            tensors[old_prefix + kind] = tensors.pop(new_prefix + kind)
    _, report = build_mask_rcnn("resnet50_fpn", ["top"], Checkpoint(tensors, metadata))
    assert (report.unused, report.random) == ((), ())


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"weight": np.zeros(3, np.float32)}, r"fill 0 of the \d+ tensors .* but found 1 tensors \(weight, ...\)"),
        ({}, r"fill 0 of the \d+ tensors .* but found 0 tensors"),
        ({"features.0.0.weight": np.zeros((16, 3, 3, 3), np.float32)}, "do not fit mobilenet_v2: .*size mismatch"),
        ({"features.0.0.weight": np.zeros((32, 3, 3, 3), np.float32)}, r"fill 1 of the \d+ tensors"),
    ],
)
def test_weights_of_something_else_are_refused(start: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_mask_rcnn("mobilenet_v2", ["top"], Checkpoint(start))


def test_unknown_backbones_and_categories_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown backbone 'vgg', allowed are mobilenet_v2, resnet50_fpn, "):
        build_mask_rcnn("vgg", ["top"])
    with pytest.raises(ValueError, match="categories must be distinct names, at least one"):
        build_mask_rcnn("mobilenet_v2", [])
    with pytest.raises(ValueError, match="0 < shorter <= longer side, but got"):
        build_mask_rcnn("mobilenet_v2", ["top"], frame_px=(200, 100))


@pytest.mark.parametrize(
    ("metadata", "option", "white"),
    [
        ({}, None, (1 - 0.485) / 0.229),  # torchvision's
        ({"input": "RGB scaled to [-1, 1]: value / 127.5 - 1"}, None, 1.0),
        ({"input": "RGB scaled to [-1, 1]: value / 127.5 - 1"}, "imagenet", (1 - 0.485) / 0.229),
    ],
)
def test_pixels_are_normalised_as_the_start_weights_expect(
    classifier: Checkpoint, metadata: dict[str, str], option: str | None, white: float
) -> None:
    start = Checkpoint(classifier.tensors, metadata)
    model, _ = build_mask_rcnn("mobilenet_v2", ["top"], start, pixel_input=option)
    images, _ = model.detector.eval().transform([torch.ones(3, 384, 384)])
    assert float(images.tensors[0, 0, 0, 0]) == pytest.approx(white)


def test_a_pixel_input_that_is_not_known_is_refused(classifier: Checkpoint) -> None:
    with pytest.raises(ValueError, match="unknown pixel input 'BGR', allowed are imagenet, symmetric"):
        build_mask_rcnn("mobilenet_v2", ["top"], Checkpoint(classifier.tensors, {"input": "BGR"}))


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_a_saved_model_predicts_the_same(trained: MaskRcnn, tmp_path: Path) -> None:
    tensors, metadata = to_checkpoint(trained)
    save_file(tensors, tmp_path / "model.safetensors", metadata)
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        loaded = from_checkpoint({name: file.get_tensor(name) for name in file.keys()}, file.metadata())  # noqa: SIM118
    assert loaded.spec == trained.spec
    photos = [example.image_hw3 for example in two_photos()]
    for instances, again in zip(predict(trained, photos), predict(loaded, photos), strict=True):
        assert len(instances) == len(again) > 0
        for one, other in zip(instances, again, strict=True):
            assert (one.category, one.score, one.box_xyxy) == (other.category, other.score, other.box_xyxy)
            np.testing.assert_array_equal(one.mask_hw, other.mask_hw)


def test_training_goes_on_from_a_saved_model_under_its_categories_only(trained: MaskRcnn) -> None:
    start = Checkpoint(*to_checkpoint(trained))
    same, report = build_mask_rcnn("mobilenet_v2", ["shape"], start, frame_px=FRAME_PX)
    assert (report.unused, report.random) == ((), ())
    assert same.spec == trained.spec
    _, report = build_mask_rcnn("mobilenet_v2", ["bag"], start)
    assert len(report.unused) == len(report.random) == 6  # weight and bias of scores, boxes and masks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"format": "persam-ray/mask-rcnn/2"},
            "its format is 'persam-ray/mask-rcnn/2', expected 'persam-ray/mask-rcnn/1'",
        ),
        ({"format": None}, "its format is None"),
        ({"spec": None}, "cannot be read"),
        ({"spec": "{"}, "cannot be read"),
        ({"spec": json.dumps({"colour": 1})}, "cannot be read"),
    ],
)
def test_metadata_of_something_else_are_refused(trained: MaskRcnn, change: dict[str, str | None], message: str) -> None:
    tensors, metadata = to_checkpoint(trained)
    changed = {name: value for name, value in {**metadata, **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        from_checkpoint(tensors, changed)


def test_a_checkpoint_with_a_tensor_missing_is_refused(trained: MaskRcnn) -> None:
    tensors, metadata = to_checkpoint(trained)
    del tensors["rpn.head.bbox_pred.bias"]
    with pytest.raises(ValueError, match=r"does not fit: .*Missing key.*rpn\.head\.bbox_pred\.bias"):
        from_checkpoint(tensors, metadata)


# --- predictions -----------------------------------------------------------------------------------------------------


def test_predictions_lie_in_the_photos_own_frame(trained: MaskRcnn) -> None:
    enlarged = two_photos()[0].image_hw3.repeat(5, axis=0).repeat(5, axis=1)  # 480 x 640
    best = predict(trained, [enlarged])[0][0]
    assert best.mask_hw.shape == (480, 640)
    assert best.box_xyxy == tight_box(best.mask_hw)
    assert (best.similarity, best.predicted_iou, best.category) == (None, None, "shape")
    truth_hw = two_photos()[0].masks_nhw[0].repeat(5, axis=0).repeat(5, axis=1)
    assert (best.mask_hw & truth_hw).sum() / (best.mask_hw | truth_hw).sum() > 0.7


def test_thresholds_and_limits_are_kept_and_scores_fall(trained: MaskRcnn) -> None:
    image = two_photos()[0].image_hw3
    scores = [instance.score for instance in predict(trained, [image], DetectionLimits(score=0.0))[0]]
    assert scores == sorted(scores, reverse=True)
    middle = scores[len(scores) // 2]
    assert all(instance.score > middle for instance in predict(trained, [image], DetectionLimits(score=middle))[0])
    assert len(predict(trained, [image], DetectionLimits(score=0.0, per_image=2))[0]) == 2


def test_instances_without_a_pixel_are_left_out(trained: MaskRcnn) -> None:
    blind = from_checkpoint(*to_checkpoint(trained))
    with torch.no_grad():
        blind.detector.roi_heads.mask_predictor.mask_fcn_logits.bias.fill_(-1000)
    assert predict(blind, [two_photos()[0].image_hw3]) == [[]]


def test_a_photo_is_judged_alone_whatever_came_before(trained: MaskRcnn) -> None:
    square, tall = (example.image_hw3 for example in two_photos())
    thin = np.full((2000, 25, 3), 128, np.uint8)  # 128 x 2 in the frame: misleads torchvision's guess of the strides
    fresh = from_checkpoint(*to_checkpoint(trained))
    together = predict(fresh, [thin, square, tall])[1:]
    alone = [predict(trained, [square])[0], predict(trained, [tall])[0]]
    assert [[one.score for one in photo] for photo in together] == [[one.score for one in photo] for photo in alone]


def test_pasting_gives_torchvisions_pixels() -> None:
    generator = torch.Generator().manual_seed(5)
    corners = torch.rand(40, 2, 2, generator=generator) * torch.tensor([140.0, 110.0]) - 10  # beyond all edges
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    masks = torch.rand(40, 1, 28, 28, generator=generator)
    expected = paste_masks_in_image(masks, boxes, (90, 120))[:, 0] > 0.5
    np.testing.assert_array_equal(np.stack(paste_masks(masks, boxes, (90, 120))), expected.numpy())


def test_a_hundred_masks_of_a_12_megapixel_photo_fit_in_memory() -> None:
    places = torch.arange(100.0)[:, None] * 20
    boxes = torch.cat([places, places, places + 300, places + 300], dim=1)
    before = psutil.Process().memory_info().rss
    pasted: list[BoolArray] = paste_masks(torch.ones(100, 1, 28, 28), boxes, (3000, 4000))
    used = psutil.Process().memory_info().rss - before
    assert sum(int(mask.sum()) for mask in pasted) > 100 * 250**2
    assert used < 400e6  # as float32 they are 4.8 GB; as bool 1.2 GB, of which most pages are never written
