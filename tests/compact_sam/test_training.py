"""Training a compact SAM: what is written and read back, gradients, steps."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch.distributed import destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel

from persam_ray.compact_sam.network import CompactSam, load_weights, new_compact_sam, to_compact_checkpoint
from persam_ray.compact_sam.packed_scenes import ObjectPhoto, Views, draw_views
from persam_ray.compact_sam.samples import (
    BESIDE_POINT,
    BOX_CORNERS,
    ON_POINT,
    PADDING_POINT,
    Sample,
    SampleSettings,
    make_sample,
)
from persam_ray.compact_sam.training import SamTrainingSettings, TrainingLosses, make_batch, make_optimiser, train_step
from persam_ray.data.checkpoints import read_checkpoint
from persam_ray.demo.scenes import Scene, draw_scene
from persam_ray.errors import CheckpointError
from persam_ray.images import resize_longest_side
from persam_ray.sam.layout import COMPACT_FORMAT
from persam_ray.sam.model import Sam
from persam_ray.types import Checkpoint, Points

SIZE_PX = 128
SAMPLES = SampleSettings(image_size_px=SIZE_PX, targets=4)
SETTINGS = SamTrainingSettings(
    layout_steps=0, steps=15, photos_per_step=2, small_steps=0, learning_rate=2e-3, samples=SAMPLES
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """At 128 pixels a second thread helps little, and where other processes compute too it costs tenfold."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(seed, (168, 116)) for seed in range(4)]


@pytest.fixture(scope="module")
def views(scenes: list[Scene]) -> list[Views]:
    return [draw_views(seed, (168, 116)) for seed in range(len(scenes))]


def small_sam() -> CompactSam:
    return new_compact_sam("mobilenetv3_small_050", SIZE_PX, seed=0)


def trained(views: Sequence[Views], steps: int) -> TrainingLosses:
    """Train for some steps, so that BatchNorm has statistics."""
    losses = TrainingLosses(small_sam())
    optimiser, schedule = make_optimiser(losses, SETTINGS)
    for step in range(steps):
        train_step(losses, optimiser, schedule, make_batch(views, SETTINGS, step), SETTINGS)
    return losses


def same(first: Sample, second: Sample) -> bool:
    pairs = zip(*({**vars(sample), **vars(sample.layout)}.items() for sample in (first, second)), strict=True)
    return all(name == "layout" or np.array_equal(one, other) for (name, one), (_, other) in pairs)


# --- model -----------------------------------------------------------------------------------------------------------


def test_a_written_checkpoint_is_read_back_and_gives_the_same_logits(
    scenes: list[Scene], views: list[Views], tmp_path: Path
) -> None:
    model = trained(views, 2).eval().questions.sam
    tensors, metadata = to_compact_checkpoint(model)
    save_file(tensors, tmp_path / "sam.safetensors", metadata)
    sam = Sam(read_checkpoint(str(tmp_path / "sam.safetensors")), precision="float32")
    photo = resize_longest_side(scenes[0].image_hw3, SIZE_PX)
    points = Points(torch.tensor([[[40.0, 70.0]]]), torch.ones(1, 1))
    found = sam.decode(sam.encode([photo]), points, multimask=True)
    with torch.inference_mode():
        features = model.image_encoder(sam.normalize(photo)[None])
        sparse, dense = model.prompt_encoder((points.xy_np2, points.labels_np), None, None)
        logits, iou = model.mask_decoder(features, model.prompt_encoder.get_dense_pe(), sparse, dense, True)
    assert {array.dtype for array in tensors.values()} == {np.dtype(np.float16), np.dtype(np.int64)}
    # float16 keeps 11 bits; over some 60 layers the rounding of the weights adds up to about a percent.
    assert (found.logits_nkhw - logits).abs().max() < 0.02 * logits.abs().max()
    torch.testing.assert_close(found.iou_scores_nk, iou, atol=0.01, rtol=0.02)


def test_training_goes_on_from_a_checkpoint(views: list[Views]) -> None:
    model = trained(views, 2).questions.sam
    again = new_compact_sam("mobilenetv3_small_050", 2 * SIZE_PX, seed=1)  # of another image size
    load_weights(again, Checkpoint(*to_compact_checkpoint(model)))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, atol=1e-3, rtol=1e-3)
    with pytest.raises(CheckpointError, match="no compact SAM with mobilenetv3_small_050, but resnet18"):
        load_weights(again, Checkpoint({}, {"format": COMPACT_FORMAT, "backbone": "resnet18"}))
    with pytest.raises(CheckpointError, match="Missing key"):
        load_weights(again, Checkpoint({}, {"format": COMPACT_FORMAT, "backbone": "mobilenetv3_small_050"}))


# --- losses ----------------------------------------------------------------------------------------------------------


def test_every_weight_has_a_gradient_whatever_the_first_prompts_are(views: list[Views]) -> None:
    # DistributedDataParallel waits for all of them.
    losses = TrainingLosses(small_sam(), SAMPLES.targets - 1)
    for labels in ((ON_POINT, PADDING_POINT), (ON_POINT, BESIDE_POINT), BOX_CORNERS):
        batch = [make_sample(view, SAMPLES, seed=0) for view in views[0]]
        of_one_kind = [replace(one, labels_kt=np.tile(np.array(labels), (SAMPLES.targets, 1))) for one in batch]
        losses.zero_grad()
        torch.autograd.backward(torch.stack(list(losses(of_one_kind).values())).sum())
        assert all(weight.grad is not None for weight in losses.parameters())


def test_prompt_tokens_are_those_of_segment_anything() -> None:
    sam = small_sam()
    xy = torch.rand(5, 2, 2) * SIZE_PX
    questions = TrainingLosses(sam).questions
    for labels, prompt in (
        ((ON_POINT, PADDING_POINT), {"points": (xy[:, :1], torch.ones(5, 1)), "boxes": None}),
        ((ON_POINT, BESIDE_POINT), {"points": (xy, torch.tensor([[1, 0]] * 5)), "boxes": None}),
        (BOX_CORNERS, {"points": None, "boxes": xy.flatten(1)}),
    ):
        expected, _ = sam.prompt_encoder(**prompt, masks=None)
        tokens = questions._tokens(xy, torch.tensor([labels] * 5), SIZE_PX)
        torch.testing.assert_close(tokens, expected[:, :2])  # behind two points the package puts a padding token


def test_bfloat16_gives_nearly_the_same_losses(views: list[Views]) -> None:
    batch = [make_sample(view, SAMPLES, seed=0) for view in views[0]]
    model = small_sam()
    exact, rounded = (TrainingLosses(model, 2, compute)(batch) for compute in (torch.float32, torch.bfloat16))
    for name, value in exact.items():
        torch.testing.assert_close(rounded[name], value, rtol=0.1, atol=0.02)


# --- steps -----------------------------------------------------------------------------------------------------------


def test_the_loss_falls_on_photos_seen_again(views: list[Views]) -> None:
    batch = [make_sample(view, SAMPLES, seed=0) for view in views[0]]
    losses = TrainingLosses(small_sam())
    optimiser, schedule = make_optimiser(losses, SETTINGS)
    totals = [train_step(losses, optimiser, schedule, batch, SETTINGS)["loss"] for _ in range(SETTINGS.steps)]
    assert totals[-1] < 0.5 * totals[0]


def test_a_gradient_that_is_not_finite_stops_training(views: list[Views]) -> None:
    losses = TrainingLosses(small_sam())
    optimiser, schedule = make_optimiser(losses, SETTINGS)
    losses.questions.sam.mask_decoder.iou_token.weight.data[0, 0] = torch.nan
    with pytest.raises(RuntimeError, match="non-finite"):
        train_step(losses, optimiser, schedule, make_batch(views, SETTINGS, 0), SETTINGS)


def test_a_step_under_ddp_is_the_same_step(views: list[Views], tmp_path: Path) -> None:
    plain = TrainingLosses(small_sam())
    copied = copy.deepcopy(plain)
    init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for losses in (plain, DistributedDataParallel(copied)):
            optimiser, schedule = make_optimiser(losses, SETTINGS)
            for step in range(2):
                train_step(losses, optimiser, schedule, make_batch(views, SETTINGS, step), SETTINGS)
    finally:
        destroy_process_group()
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(copied.state_dict()[name], tensor, atol=1e-4, rtol=1e-3)


def test_workers_share_a_steps_samples(views: list[Views]) -> None:
    settings = replace(SETTINGS, photos_per_step=4)
    whole = make_batch(views, settings, step=3)
    shares = [make_batch(views, settings, 3, rank, workers=2) for rank in range(2)]
    assert [len(share) for share in shares] == [2, 2]
    assert all(same(one, other) for one, other in zip(whole, shares[0] + shares[1], strict=True))
    with pytest.raises(ValueError, match="4 photos per step, 2 of each scene, cannot be shared evenly by 3 workers"):
        make_batch(views, settings, 0, 0, workers=3)
    with pytest.raises(ValueError, match=r"3 photos per step, 2 of each scene, cannot be shared evenly by 1 worker$"):
        make_batch(views, replace(settings, photos_per_step=3), 0)


def test_a_step_shows_both_views_of_a_scene_side_by_side(views: list[Views]) -> None:
    marked = [(in_hundred(number, one), in_hundred(number, other)) for number, (one, other) in enumerate(views)]
    seen = make_batch(marked, replace(SETTINGS, photos_per_step=8), step=0)
    hundreds = [{int(thing) // 100 for thing in np.unique(sample.layout.things_hw) if thing >= 0} for sample in seen]
    assert all(len(of_sample) == 1 for of_sample in hundreds)
    assert hundreds[::2] == hundreds[1::2]
    assert set.union(*hundreds) == {0, 1, 2, 3}
    assert not any(np.array_equal(one.image_hw3, other.image_hw3) for one, other in pairwise(seen))


def in_hundred(number: int, scene: ObjectPhoto) -> ObjectPhoto:
    """Return the scene with numbers of things that no other scene has."""
    assert isinstance(scene, Scene)
    groups = (0,) * 100 * number + scene.object_groups
    return replace(scene, object_map_hw=scene.object_map_hw + np.int16(100 * number), object_groups=groups)


def test_the_first_steps_are_taken_on_small_photos(views: list[Views]) -> None:
    settings = replace(SETTINGS, layout_steps=5, small_steps=0.5, small_px=64)
    batches = [make_batch(views, settings, step) for step in (0, 4, 5, 12, 13, 19)]
    assert [len(batch[0].masks_khw) for batch in batches] == [0, 0, 4, 4, 4, 4]
    assert [batch[0].size_px for batch in batches] == [64, 64, 64, 64, SIZE_PX, SIZE_PX]


def test_the_learning_rate_rises_and_falls_twice() -> None:
    settings = replace(SETTINGS, layout_steps=20, steps=40, warmup=0.1)
    optimiser, schedule = make_optimiser(TrainingLosses(small_sam()), settings)
    rates = []
    for _ in range(60):
        rates.append(schedule.get_last_lr()[-1] / settings.learning_rate)
        optimiser.step()
        schedule.step()
    assert rates[:2] == pytest.approx([0.5, 1], abs=0.01)
    assert rates[19] < 0.01
    assert rates[20:24] == pytest.approx([0.25, 0.5, 0.75, 1], abs=0.02)
    assert rates[59] < 0.01


def test_without_prompts_the_encoder_alone_learns(views: list[Views]) -> None:
    settings = replace(SETTINGS, layout_steps=30, small_px=64)
    losses = TrainingLosses(small_sam())
    before = {name: tensor.clone() for name, tensor in losses.state_dict().items()}
    optimiser, schedule = make_optimiser(losses, settings)
    batch = make_batch(views, settings, 0)
    values = [train_step(losses, optimiser, schedule, batch, settings) for _ in range(30)]
    assert all(value.keys() == {"place", "edge", "kin", "match", "loss"} for value in values)
    assert values[-1]["loss"] < values[0]["loss"]
    changed = {name for name, tensor in losses.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith(("questions.sam.image_encoder.", "questions.layout_head.")) for name in changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"corrected": 0}, r"corrected must be in \[1, targets = 4\], but got 0"),
        ({"small_steps": 1.5}, r"small_steps must be in \[0, 1\], but got 1\.5"),
        ({"small_px": 100}, "image_size_px must be a multiple of 32"),
        ({"layout_steps": -1}, "layout_steps must be at least 0, but got -1"),
        ({"learning_rate": 0}, "learning_rate must be in"),
    ],
)
def test_bad_settings_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **changed)
