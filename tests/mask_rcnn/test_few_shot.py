"""Few-shot training of Mask R-CNN: batches, steps that workers share, learning."""

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
from persam_ray.mask_rcnn.examples import prepare
from persam_ray.mask_rcnn.few_shot import TrainingImage, TrainingLosses, make_batch, make_optimiser
from persam_ray.mask_rcnn.model import MaskRcnn, build_mask_rcnn
from persam_ray.mask_rcnn.prediction import predict
from persam_ray.mask_rcnn.settings import FewShotSettings
from persam_ray.training.examples import make_example
from persam_ray.types import Checkpoint
from tests.conftest import shared
from tests.few_photos import SPEC, average_precision_50, photo, tiny_model, train, two_photos

START = "mobilenet_v2_imagenet.safetensors"

# --- batches ---------------------------------------------------------------------------------------------------------


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
