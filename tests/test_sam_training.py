"""Training a compact SAM: its samples, its losses, one step, and how it is measured."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn
from torch.distributed import destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel

from persam_ray.checkpoints import read_checkpoint
from persam_ray.demo.norms import PhotoNorms
from persam_ray.demo.sam_measures import central_pixel, evaluate, targets
from persam_ray.demo.sam_samples import CELL_PX, LEAST_CELLS, Sample, SampleSettings, make_sample, noised
from persam_ray.demo.sam_training import (
    CompactSam,
    SamTrainingSettings,
    TrainingLosses,
    candidate_losses,
    error_points,
    make_batch,
    make_optimiser,
    new_compact_sam,
    to_compact_checkpoint,
    train_step,
)
from persam_ray.demo.scenes import Scene, draw_scene
from persam_ray.images import resize_longest_side
from persam_ray.masks import tight_box
from persam_ray.sam import Sam
from persam_ray.types import Checkpoint, Frame, MaskCandidates, Points

SIZE_PX = 128
SAMPLES = SampleSettings(image_size_px=SIZE_PX, targets=4)
SETTINGS = SamTrainingSettings(steps=15, photos_per_step=2, learning_rate=2e-3, samples=SAMPLES)


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


def small_sam() -> CompactSam:
    return new_compact_sam("mobilenetv3_small_050", SIZE_PX, seed=0)


def trained(scenes: Sequence[Scene], steps: int) -> TrainingLosses:
    """Train for some steps, so that BatchNorm has statistics."""
    losses = TrainingLosses(small_sam())
    optimiser, schedule = make_optimiser(losses, SETTINGS)
    for step in range(steps):
        train_step(losses, optimiser, schedule, make_batch(scenes, SETTINGS, step), SETTINGS)
    return losses


# --- model -----------------------------------------------------------------------------------------------------------


def test_a_written_checkpoint_is_read_back_and_gives_the_same_logits(scenes: list[Scene], tmp_path: Path) -> None:
    model = trained(scenes, 2).eval().sam
    tensors, metadata = to_compact_checkpoint(model)
    save_file(tensors, tmp_path / "sam.safetensors", metadata)
    sam = Sam(read_checkpoint(str(tmp_path / "sam.safetensors")), precision="float32")
    photo = resize_longest_side(scenes[0].image_hw3, SIZE_PX)
    points = Points(torch.tensor([[[40.0, 70.0]]]), torch.ones(1, 1))
    found = sam.decode(sam.encode([photo]), points, multimask=True)
    with torch.inference_mode():
        features = model.image_encoder(sam.normalize(photo)[None])
        sparse, dense = model.prompt_encoder((points.xy_bn2, points.labels_bn), None, None)
        logits, iou = model.mask_decoder(features, model.prompt_encoder.get_dense_pe(), sparse, dense, True)
    assert {array.dtype for array in tensors.values()} == {np.dtype(np.float16), np.dtype(np.int64)}
    # float16 keeps 11 bits; over some 60 layers the rounding of the weights adds up to about a percent.
    assert (found.logits_bkhw - logits).abs().max() < 0.02 * logits.abs().max()
    torch.testing.assert_close(found.iou_scores_bk, iou, atol=0.01, rtol=0.02)


def test_new_weights_follow_from_the_seed_and_leave_torchs_generator_alone() -> None:
    state = torch.random.get_rng_state()
    first, again = small_sam().state_dict(), small_sam().state_dict()
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = new_compact_sam("mobilenetv3_small_050", SIZE_PX, seed=1).state_dict()
    assert not torch.equal(first["image_encoder.fuse.0.weight"], other["image_encoder.fuse.0.weight"])


def test_a_model_that_cannot_be_built_says_why() -> None:
    with pytest.raises(ValueError, match="no model 'resnet_of_mine'"):
        new_compact_sam("resnet_of_mine", SIZE_PX, seed=0)
    with pytest.raises(ValueError, match="multiple of 32, at least 64, but got 100"):
        new_compact_sam("mobilenetv3_small_050", 100, seed=0)


def test_weights_beyond_float16_are_refused() -> None:
    model = small_sam()
    model.mask_decoder.iou_token.weight.data[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"iou_token\.weight holds numbers that float16 cannot: up to 1e\+06"):
        to_compact_checkpoint(model)


# --- samples ---------------------------------------------------------------------------------------------------------


def same(first: Sample, second: Sample) -> bool:
    return all(np.array_equal(value, vars(second)[name]) for name, value in vars(first).items())


def test_samples_follow_from_the_seed(scenes: list[Scene]) -> None:
    first, again, other = (make_sample(scenes[0], SAMPLES, seed) for seed in (5, 5, 6))
    assert same(first, again)
    assert not same(first, other)
    assert not np.array_equal(first.image_hw3, other.image_hw3)


def test_prompts_and_masks_of_a_sample_agree(scenes: list[Scene]) -> None:
    by_box = []
    for seed in range(20):
        sample = make_sample(scenes[seed % len(scenes)], SAMPLES, seed)
        height, width, _ = sample.image_hw3.shape
        assert max(height, width) == SIZE_PX
        assert 1 <= len(sample.masks_khw) <= SAMPLES.targets
        assert not sample.masks_khw[:, -(-height // CELL_PX) :].any()  # the padding belongs to no target
        assert not sample.masks_khw[:, :, -(-width // CELL_PX) :].any()
        for mask_hw, (x, y), box in zip(sample.masks_khw, sample.points_k2, sample.boxes_k4, strict=True):
            assert mask_hw.sum() >= LEAST_CELLS
            assert mask_hw[int(y) // CELL_PX, int(x) // CELL_PX]
            assert np.abs(np.array(tight_box(mask_hw)) * CELL_PX - box).max() <= 20 / 1024 * SIZE_PX + 1e-3
        by_box += sample.by_box_k.tolist()
    assert 0.3 < np.mean(by_box) < 0.7


def test_a_noised_box_moves_by_a_tenth_of_its_sides() -> None:
    boxes = np.tile(np.array([[100, 100, 150, 120]], dtype=np.float32), (4000, 1))
    moved = noised(boxes, 1024, np.random.default_rng(0)) - boxes
    np.testing.assert_allclose(moved.std(axis=0), [5, 2, 5, 2], rtol=0.05)
    assert np.abs(moved).max() <= 20


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


def test_workers_share_a_steps_samples(scenes: list[Scene]) -> None:
    whole = make_batch(scenes, SETTINGS, step=3)
    shares = [make_batch(scenes, SETTINGS, 3, rank, workers=2) for rank in range(2)]
    assert [len(share) for share in shares] == [1, 1]
    assert all(same(one, share[0]) for one, share in zip(whole, shares, strict=True))
    with pytest.raises(ValueError, match="2 photos per step cannot be shared evenly by 3 workers"):
        make_batch(scenes, SETTINGS, 0, 0, workers=3)


# --- losses ----------------------------------------------------------------------------------------------------------


def test_only_the_best_candidate_learns_its_mask() -> None:
    masks = torch.zeros(1, 8, 8)
    masks[:, :4] = 1
    right = masks * 2 - 1
    logits = torch.stack([-right, right, torch.zeros_like(right)], dim=1).requires_grad_()
    losses, best = candidate_losses(logits, torch.zeros(1, 3), masks)
    torch.autograd.backward(losses["focal"] + losses["dice"])
    assert best.tolist() == [1]
    assert logits.grad is not None
    assert logits.grad.flatten(2).any(dim=2).tolist() == [[False, True, False]]
    # sigmoid(1) = 0.7311 everywhere right: -log 0.7311 = 0.3133, (1 - 0.7311)^2 = 0.0723, mean alpha = 1/2, times 20
    assert losses["focal"].item() == pytest.approx(20 * 0.5 * 0.0723 * 0.3133, rel=1e-2)
    # 1 - (2 * 32 * 0.7311 + 1) / (32 + 32 + 1)
    assert losses["dice"].item() == pytest.approx(1 - (64 * 0.7311 + 1) / 65, rel=1e-3)


def test_the_iou_head_learns_the_real_iou_of_every_candidate() -> None:
    masks = torch.zeros(1, 4, 4)
    masks[:, :2] = 1  # 8 cells
    found = torch.full((1, 3, 4, 4), -3.0)
    found[:, 0, :2] = 3  # all of it: 1
    found[:, 1, 1:3] = 3  # 4 of 12: 1/3
    predicted = torch.tensor([[0.5, 0.5, 0.5]], requires_grad=True)  # the third is empty: 0
    losses, _ = candidate_losses(found.requires_grad_(), predicted, masks)
    torch.autograd.backward(losses["iou"])
    assert losses["iou"].item() == pytest.approx((0.5**2 + (1 / 6) ** 2 + 0.5**2) / 3)
    torch.testing.assert_close(predicted.grad, 2 / 3 * (predicted.detach() - torch.tensor([[1, 1 / 3, 0]])))
    assert found.grad is None  # masks do not learn to fit the prediction


def test_later_points_lie_where_the_answer_is_wrong() -> None:
    mask = np.zeros((4, 8, 8), dtype=np.bool_)
    mask[:, 2:5, 2:5] = True
    found = mask.copy()
    found[0, 3, 3] = False  # missed
    found[1, 7, 0] = True  # wrong
    found[2, 2:5, 2:5] = False
    xy, labels = error_points(found, mask, np.random.default_rng(0))
    assert labels.tolist() == [1, 0, 1, 1]
    assert (xy[:2] // CELL_PX).tolist() == [[3, 3], [0, 7]]
    assert all(2 <= cell <= 4 for cell in (xy[2:] // CELL_PX).flat)  # all missed; nothing wrong: on the object


def gradient(losses: TrainingLosses, batch: Sequence[Sample]) -> dict[str, torch.Tensor]:
    losses.zero_grad()
    torch.autograd.backward(torch.stack(list(losses(batch).values())).sum())
    return {name: weight.grad.clone() for name, weight in losses.named_parameters() if weight.grad is not None}


def test_the_mean_gradient_of_two_halves_is_that_of_the_whole(scenes: list[Scene]) -> None:
    losses = trained(scenes, 2).double().train()
    losses.sam.prompt_encoder.pe_layer.float()  # segment_anything computes positions in float32
    batch = make_batch(scenes, replace(SETTINGS, photos_per_step=2), step=7)
    whole, *halves = (gradient(losses, part) for part in (batch, batch[:1], batch[1:]))
    for name, expected in whole.items():
        mean = (halves[0][name] + halves[1][name]) / 2
        torch.testing.assert_close(mean, expected, atol=1e-6, rtol=1e-6, msg=lambda text, at=name: f"{at}: {text}")


def test_every_weight_has_a_gradient_whatever_the_first_prompts_are(scenes: list[Scene]) -> None:
    # DistributedDataParallel waits for all of them.
    sample = make_sample(scenes[0], SAMPLES, seed=0)
    losses = TrainingLosses(small_sam())
    for by_box in (False, True):
        of_one_kind = replace(sample, by_box_k=np.full(len(sample.masks_khw), by_box))
        assert gradient(losses, [of_one_kind]).keys() == dict(losses.named_parameters()).keys()


def test_the_first_prompt_is_the_box_or_the_point(scenes: list[Scene]) -> None:
    sample = make_sample(scenes[0], SAMPLES, seed=0)
    losses = TrainingLosses(small_sam()).eval()
    for by_box, other_prompt in ((True, "points_k2"), (False, "boxes_k4")):
        asked = replace(sample, by_box_k=np.full(len(sample.masks_khw), by_box))
        features = losses.sam.image_encoder(torch.zeros(1, 3, SIZE_PX, SIZE_PX))[0]
        moved = replace(asked, **{other_prompt: vars(asked)[other_prompt] / 2})
        both = [
            losses._decode(features, one, one.points_k2[:, None], np.ones((len(one.points_k2), 1), np.int64), None)
            for one in (asked, moved)
        ]
        torch.testing.assert_close(both[0], both[1])


# --- BatchNorm -------------------------------------------------------------------------------------------------------


def test_settled_batchnorm_computes_in_training_what_it_computes_at_inference() -> None:
    torch.manual_seed(0)
    photos = torch.randn(2, 3, 16, 16) * 2 + 5
    norm = nn.BatchNorm2d(3)
    norms = PhotoNorms(norm)
    norms.hold(active=True)
    norm(photos)
    norms.update()
    mean, variance = photos.mean(dim=(0, 2, 3)), photos.var(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)
    training = norm(photos)
    norms.hold(active=False)
    torch.testing.assert_close(training, norm(photos), atol=1e-5, rtol=1e-5)


def test_batchnorms_gradient_ignores_a_photos_brightness_and_contrast() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    norms = PhotoNorms(norm)
    norms.hold(active=True)
    photos = torch.randn(2, 3, 16, 16, requires_grad=True)
    torch.autograd.backward((norm(photos) * torch.randn(2, 3, 16, 16)).sum())
    assert photos.grad is not None
    along_shift, along_scale = photos.grad.sum(dim=(2, 3)), (photos.grad * photos.detach()).sum(dim=(2, 3))
    torch.testing.assert_close(along_shift, torch.zeros(2, 3), atol=1e-3, rtol=0)
    torch.testing.assert_close(along_scale, torch.zeros(2, 3), atol=1e-2, rtol=0)


# --- steps -----------------------------------------------------------------------------------------------------------


def test_the_loss_falls_on_photos_seen_again(scenes: list[Scene]) -> None:
    batch = [make_sample(scene, SAMPLES, seed=0) for scene in scenes[:2]]
    losses = TrainingLosses(small_sam())
    optimiser, schedule = make_optimiser(losses, SETTINGS)
    totals = [train_step(losses, optimiser, schedule, batch, SETTINGS)["loss"] for _ in range(SETTINGS.steps)]
    assert totals[-1] < 0.5 * totals[0]


def test_a_gradient_that_is_not_finite_stops_training(scenes: list[Scene]) -> None:
    losses = TrainingLosses(small_sam())
    optimiser, schedule = make_optimiser(losses, SETTINGS)
    losses.sam.mask_decoder.iou_token.weight.data[0, 0] = torch.nan
    with pytest.raises(RuntimeError, match="non-finite"):
        train_step(losses, optimiser, schedule, make_batch(scenes, SETTINGS, 0), SETTINGS)


def test_a_step_under_ddp_is_the_same_step(scenes: list[Scene], tmp_path: Path) -> None:
    plain = TrainingLosses(small_sam())
    copied = copy.deepcopy(plain)
    init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for losses in (plain, DistributedDataParallel(copied)):
            optimiser, schedule = make_optimiser(losses, SETTINGS)
            for step in range(2):
                train_step(losses, optimiser, schedule, make_batch(scenes, SETTINGS, step), SETTINGS)
    finally:
        destroy_process_group()
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(copied.state_dict()[name], tensor, atol=1e-4, rtol=1e-3)


# --- measures --------------------------------------------------------------------------------------------------------


class Oracle(Sam):
    """Answers from the scene: one of three candidates is right, if the prompt is on the object."""

    def __init__(self, scene: Scene) -> None:
        self.image_size_px, self.device = 2 * max(scene.object_map_hw.shape), torch.device("cpu")
        self.masks = targets(scene)

    def encode(self, resized: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.zeros(len(resized), 1, 1, 1)

    def decode(self, features_bchw: torch.Tensor, points: Points, **prompts: torch.Tensor | None) -> MaskCandidates:
        boxes = prompts["box_b4"]
        answers = []
        for index in range(len(features_bchw)):
            if boxes is None:
                x, y = (points.xy_bn2[index, 0] // 2).long().tolist()
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


def test_an_untrained_model_is_measured_on_objects_and_groups(scenes: list[Scene]) -> None:
    tensors, metadata = to_compact_checkpoint(small_sam())
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
