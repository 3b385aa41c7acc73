"""Building Mask R-CNN: start weights, checkpoints, normalisation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

from persam_ray.mask_rcnn.model import MaskRcnn, build_mask_rcnn, from_checkpoint, to_checkpoint
from persam_ray.mask_rcnn.prediction import predict
from persam_ray.types import Checkpoint
from tests.few_photos import FRAME_PX, two_photos

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


def test_a_saved_model_predicts_the_same(shape_detector: MaskRcnn, tmp_path: Path) -> None:
    tensors, metadata = to_checkpoint(shape_detector)
    save_file(tensors, tmp_path / "model.safetensors", metadata)
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        loaded = from_checkpoint({name: file.get_tensor(name) for name in file.keys()}, file.metadata())  # noqa: SIM118
    assert loaded.spec == shape_detector.spec
    photos = [example.image_hw3 for example in two_photos()]
    for instances, again in zip(predict(shape_detector, photos), predict(loaded, photos), strict=True):
        assert len(instances) == len(again) > 0
        for one, other in zip(instances, again, strict=True):
            assert (one.category, one.score, one.box_xyxy) == (other.category, other.score, other.box_xyxy)
            np.testing.assert_array_equal(one.mask_hw, other.mask_hw)


def test_training_goes_on_from_a_saved_model_under_its_categories_only(shape_detector: MaskRcnn) -> None:
    start = Checkpoint(*to_checkpoint(shape_detector))
    same, report = build_mask_rcnn("mobilenet_v2", ["shape"], start, frame_px=FRAME_PX)
    assert (report.unused, report.random) == ((), ())
    assert same.spec == shape_detector.spec
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
def test_metadata_of_something_else_are_refused(
    shape_detector: MaskRcnn, change: dict[str, str | None], message: str
) -> None:
    tensors, metadata = to_checkpoint(shape_detector)
    changed = {name: value for name, value in {**metadata, **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        from_checkpoint(tensors, changed)


def test_a_checkpoint_with_a_tensor_missing_is_refused(shape_detector: MaskRcnn) -> None:
    tensors, metadata = to_checkpoint(shape_detector)
    del tensors["rpn.head.bbox_pred.bias"]
    with pytest.raises(ValueError, match=r"does not fit: .*Missing key.*rpn\.head\.bbox_pred\.bias"):
        from_checkpoint(tensors, metadata)
