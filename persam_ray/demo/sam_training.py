"""Training a compact Segment Anything Model from random weights (Kirillov et al. 2023, arXiv:2304.02643, appendix A).

    sam = new_compact_sam("mobilenetv2_100", image_size=512, seed=0)
    losses = TrainingLosses(sam)           # or DistributedDataParallel around it
    optimiser, schedule = make_optimiser(losses, settings)
    for step in range(settings.steps):
        batch = make_batch(scenes, settings, step, rank, workers)
        values = train_step(losses, optimiser, schedule, batch, settings)
    tensors, metadata = to_compact_checkpoint(sam)

A photo is encoded once and asked for up to 8 masks, each in three rounds: a point or a box first, then a point where
the last answer was wrong, together with that answer. A step's loss is the mean of its photos' losses, each computed
alone, and workers take equal shares of a step's photos, so the mean of their gradients is the gradient of the step.

Suffixes: b photos, k target masks of a photo, m candidates of a mask, n points, t prompt tokens, h w rows and columns,
c channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from persam_ray import few_shot
from persam_ray.demo.norms import PhotoNorms
from persam_ray.demo.sam_samples import CELL_PX, Sample, SampleSettings, make_sample, random_pixels
from persam_ray.demo.scenes import Scene
from persam_ray.sam import PIXEL_MEAN, PIXEL_STD
from persam_ray.sam_build import COMPACT_FORMAT, DECODER_HEADS, CompactEncoder
from persam_ray.sam_decoder import predict_masks
from persam_ray.types import BoolArray

EMBEDDING = 256  # channels of the features; CompactEncoder's neck has as many
FOCAL_WEIGHT = 20.0  # against 1 of the dice loss, as in the paper
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0  # of the focal loss's own paper (Lin et al. 2017), which SAM keeps


@dataclass(frozen=True)
class SamTrainingSettings:
    """How a compact SAM is trained.

    Attributes:
        steps: Optimiser steps.
        photos_per_step: Of all workers together; a multiple of their number.
        later_prompts: Rounds after the first, each with one more point; at least 1, or the weights that take a mask
            as prompt would get no gradient.
        learning_rate: Highest rate of AdamW; reached after `warmup` of the steps, then a cosine to 0.
        weight_decay: AdamW's, on weights of two and more dimensions.
        warmup: Part of the steps, in [0, 1].
        clip_norm: Longest gradient.
        seed: Of the order of scenes, of augmentation, targets and prompts.
        samples: How samples are made.
    """

    steps: int = 20_000
    photos_per_step: int = 4
    later_prompts: int = 2
    learning_rate: float = 8e-4
    weight_decay: float = 0.05
    warmup: float = 0.05
    clip_norm: float = 1.0
    seed: int = 0
    samples: SampleSettings = field(default_factory=SampleSettings)

    def __post_init__(self) -> None:
        if self.later_prompts < 1:
            raise ValueError(f"later_prompts must be at least 1, but got {self.later_prompts}")
        self.few_shot()

    def few_shot(self) -> few_shot.FewShotSettings:
        """Return what the optimiser and its schedule have in common with the few-shot detector's.

        Raises:
            ValueError: A value is out of range.
        """
        return few_shot.FewShotSettings(
            steps=self.steps,
            photos_per_step=self.photos_per_step,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            clip_norm=self.clip_norm,
        )


# --- model -----------------------------------------------------------------------------------------------------------


class CompactSam(nn.Module):
    """A compact SAM to train; the names of its tensors are the checkpoint's.

    Args:
        backbone: Name of a `timm` model with features at strides 8, 16 and 32.
        image_size_px: Side of the square input, a multiple of 32.
    """

    def __init__(self, backbone: str, image_size_px: int) -> None:
        super().__init__()
        if image_size_px % 32 or image_size_px < 64:
            raise ValueError(f"the image size must be a multiple of 32, at least 64, but got {image_size_px}")
        grid_hw = (image_size_px // 16, image_size_px // 16)
        layers: Any = timm.create_model(backbone, features_only=True, out_indices=(2, 3, 4), pretrained=False)
        self.backbone_name, self.image_size_px = backbone, image_size_px
        self.image_encoder = CompactEncoder(layers, tuple(layers.feature_info.channels()))
        self.prompt_encoder = PromptEncoder(
            embed_dim=EMBEDDING,
            image_embedding_size=grid_hw,
            input_image_size=(image_size_px, image_size_px),
            mask_in_chans=16,
        )
        self.mask_decoder = MaskDecoder(
            transformer_dim=EMBEDDING,
            transformer=TwoWayTransformer(depth=2, embedding_dim=EMBEDDING, mlp_dim=2048, num_heads=DECODER_HEADS),
            num_multimask_outputs=3,
        )


def new_compact_sam(backbone: str, image_size: int, seed: int) -> CompactSam:
    """Return a compact SAM with random weights that follow from the seed, on the CPU.

    Raises:
        ValueError: `timm` has no such backbone, or the image size is no multiple of 32.
    """
    if not timm.is_model(backbone):
        raise ValueError(f"timm has no model {backbone!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CompactSam(backbone, image_size)


def to_compact_checkpoint(sam: CompactSam) -> tuple[dict[str, npt.NDArray[np.generic]], dict[str, str]]:
    """Return a copy of the tensors in float16 (counters as they are) and metadata, both as safetensors stores them.

    Raises:
        ValueError: A tensor is not finite, or beyond float16 (65504).
    """
    tensors = {}
    for name, tensor in sam.state_dict().items():
        small = tensor.detach().cpu().half() if tensor.is_floating_point() else tensor.detach().cpu()
        if not torch.isfinite(small).all():
            raise ValueError(f"{name} holds numbers that float16 cannot: up to {tensor.abs().max().item():.3g}")
        tensors[name] = np.array(small.numpy(), order="C")
    metadata = {"format": COMPACT_FORMAT, "backbone": sam.backbone_name, "image_size": str(sam.image_size_px)}
    return tensors, metadata


# --- losses ----------------------------------------------------------------------------------------------------------


class TrainingLosses(nn.Module):
    """A model's losses as a forward pass, which is where DistributedDataParallel gathers gradients."""

    def __init__(self, sam: CompactSam, later_prompts: int = 2) -> None:
        super().__init__()
        self.sam, self.later_prompts = sam, later_prompts
        self.norms = PhotoNorms(sam)
        self.train(self.training)

    def train(self, mode: bool = True) -> "TrainingLosses":
        """Set the mode; BatchNorm is trained in a way of its own (`norms`)."""
        super().train(mode)
        self.norms.hold(active=mode)
        return self

    def forward(self, batch: Sequence[Sample]) -> dict[str, Tensor]:
        """Return three losses (scalars), each the mean over photos, their targets and rounds.

        `focal` (times 20) and `dice` of the best candidate, `iou` of all candidates' predicted IoU.
        """
        features_bchw = self.sam.image_encoder(torch.stack([self._input(sample) for sample in batch]))
        losses = [self._losses(one_chw, sample) for one_chw, sample in zip(features_bchw, batch, strict=True)]
        return {name: torch.stack([loss[name] for loss in losses]).mean() for name in losses[0]}

    def _input(self, sample: Sample) -> Tensor:
        """Return a photo as SAM's input (3, s, s): normalised, then padded with zeros."""
        mean_3, std_3 = (self._like(np.array(values)) for values in (PIXEL_MEAN, PIXEL_STD))
        normal_hw3 = (self._like(sample.image_hw3) - mean_3) / std_3
        height, width, _ = sample.image_hw3.shape
        size = self.sam.image_size_px
        return F.pad(normal_hw3.permute(2, 0, 1), (0, size - width, 0, size - height))

    def _like(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.tensor(array).to(self.sam.mask_decoder.iou_token.weight)

    def _losses(self, features_chw: Tensor, sample: Sample) -> dict[str, Tensor]:
        random = np.random.default_rng(sample.seed)
        masks_khw = self._like(sample.masks_khw)
        xy_kn2, labels_kn = sample.points_k2[:, None], np.ones((len(sample.masks_khw), 1), dtype=np.int64)
        rounds, answer_khw = [], None
        for number in range(1 + self.later_prompts):
            logits_kmhw, iou_km = self._decode(features_chw, sample, xy_kn2, labels_kn, answer_khw)
            losses, best_k = candidate_losses(logits_kmhw, iou_km, masks_khw)
            rounds.append(losses)
            if number < self.later_prompts:
                answer_khw = logits_kmhw.detach()[torch.arange(len(best_k), device=best_k.device), best_k]
                xy_k2, label_k = error_points(answer_khw.cpu().numpy() > 0, sample.masks_khw, random)
                xy_kn2 = np.concatenate([xy_kn2, xy_k2[:, None]], axis=1)
                labels_kn = np.concatenate([labels_kn, label_k[:, None]], axis=1)
        return {name: torch.stack([losses[name] for losses in rounds]).mean() for name in rounds[0]}

    def _decode(
        self,
        features_chw: Tensor,
        sample: Sample,
        xy_kn2: npt.NDArray[np.float32],
        labels_kn: npt.NDArray[np.int64],
        answer_khw: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return logits (k, m, h, w) and predicted IoU (k, m): three candidates at first, then the single mask.

        Args:
            features_chw: Of the photo.
            sample: Its prompts, of which the box is taken or the first point.
            xy_kn2: The points so far.
            labels_kn: 1 on the object, 0 off it.
            answer_khw: Logits of the round before, the mask prompt; None in the first.
        """
        encoder = self.sam.prompt_encoder
        points = self._like(xy_kn2), torch.tensor(labels_kn).to(features_chw.device)
        mask = None if answer_khw is None else answer_khw[:, None]
        # n points and SAM's padding token are as many tokens as n - 1 points and a box: both kinds go through one call.
        by_point_ktc, dense_kchw = encoder(points, None, mask)
        later = (points[0][:, 1:], points[1][:, 1:]) if xy_kn2.shape[1] > 1 else None
        by_box_ktc, _ = encoder(later, self._like(sample.boxes_k4), None)
        by_box_k11 = torch.tensor(sample.by_box_k).to(features_chw.device)[:, None, None]
        return predict_masks(
            self.sam.mask_decoder,
            features_chw + dense_kchw,
            encoder.get_dense_pe(),
            torch.where(by_box_k11, by_box_ktc, by_point_ktc),
            guidance_bhw=None,
            embedding_bc=None,
            multimask=answer_khw is None,
        )


def candidate_losses(logits_kmhw: Tensor, iou_km: Tensor, masks_khw: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Return the losses of one round (scalars, means over targets) and the best candidate of each target (k).

    Only the candidate with the least mask loss learns its mask; all learn to predict their real IoU.

    Args:
        logits_kmhw: Of each target's candidates.
        iou_km: IoU that the model predicts for them.
        masks_khw: The targets, 0 or 1.
    """
    truth_kmhw = masks_khw[:, None].expand_as(logits_kmhw)
    focal_km = FOCAL_WEIGHT * focal_loss(logits_kmhw, truth_kmhw)
    dice_km = dice_loss(logits_kmhw, truth_kmhw)
    best_k = (focal_km + dice_km).argmin(dim=1)
    rows_k = torch.arange(len(best_k), device=best_k.device)
    real_km = real_iou(logits_kmhw, truth_kmhw)
    losses = {
        "focal": focal_km[rows_k, best_k].mean(),
        "dice": dice_km[rows_k, best_k].mean(),
        "iou": F.mse_loss(iou_km, real_km),
    }
    return losses, best_k


def focal_loss(logits_kmhw: Tensor, truth_kmhw: Tensor) -> Tensor:
    """Return the focal loss (k, m), the mean over cells."""
    entropy = F.binary_cross_entropy_with_logits(logits_kmhw, truth_kmhw, reduction="none")
    missed = (logits_kmhw.sigmoid() - truth_kmhw).abs()
    alpha = FOCAL_ALPHA * truth_kmhw + (1 - FOCAL_ALPHA) * (1 - truth_kmhw)
    return (alpha * missed**FOCAL_GAMMA * entropy).mean(dim=(2, 3))


def dice_loss(logits_kmhw: Tensor, truth_kmhw: Tensor) -> Tensor:
    """Return the dice loss (k, m); the 1 above and below, as everywhere, keeps it defined on empty masks."""
    probability = logits_kmhw.sigmoid()
    both = (probability * truth_kmhw).sum(dim=(2, 3))
    return 1 - (2 * both + 1) / (probability.sum(dim=(2, 3)) + truth_kmhw.sum(dim=(2, 3)) + 1)


@torch.no_grad()
def real_iou(logits_kmhw: Tensor, truth_kmhw: Tensor) -> Tensor:
    """Return the IoU (k, m) of the masks, which are where logits exceed 0."""
    found, truth = logits_kmhw > 0, truth_kmhw > 0.5
    return (found & truth).sum(dim=(2, 3)) / (found | truth).sum(dim=(2, 3)).clamp(min=1).to(logits_kmhw)


def error_points(
    found_khw: BoolArray, masks_khw: BoolArray, random: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return a random pixel (k, 2) where each answer is wrong, and its label (k): 1 if missed, 0 if not of the object.

    Where nothing is wrong, a pixel of the object.
    """
    wrong_khw = found_khw ^ masks_khw
    right_k = ~wrong_khw.any(axis=(1, 2))
    wrong_khw[right_k] = masks_khw[right_k]
    xy_k2 = random_pixels(wrong_khw, random)
    columns, rows = (xy_k2 // CELL_PX).astype(np.int64).T
    return xy_k2, masks_khw[np.arange(len(masks_khw)), rows, columns].astype(np.int64)


# --- steps -----------------------------------------------------------------------------------------------------------


def make_batch(
    scenes: Sequence[Scene], settings: SamTrainingSettings, step: int, rank: int = 0, workers: int = 1
) -> list[Sample]:
    """Return one worker's samples of a step; scenes come in epochs, each in an order of its own, laid end to end.

    Raises:
        ValueError: A step's photos cannot be shared evenly.
    """
    if settings.photos_per_step % workers:
        raise ValueError(f"{settings.photos_per_step} photos per step cannot be shared evenly by {workers} workers")
    first = step * settings.photos_per_step
    batch = []
    for position in range(first + rank, first + settings.photos_per_step, workers):
        epoch, index = divmod(position, len(scenes))
        order = np.random.default_rng([settings.seed, epoch]).permutation(len(scenes))
        batch.append(make_sample(scenes[order[index]], settings.samples, few_shot.seed_of(settings.seed, position)))
    return batch


def make_optimiser(losses: nn.Module, settings: SamTrainingSettings) -> tuple[AdamW, LambdaLR]:
    """Return AdamW over all weights, and its schedule: linear warm-up, then a cosine to 0."""
    return few_shot.make_optimiser(losses, settings.few_shot())


def train_step(
    losses: TrainingLosses | DistributedDataParallel,
    optimiser: AdamW,
    schedule: LambdaLR,
    batch: Sequence[Sample],
    settings: SamTrainingSettings,
) -> dict[str, float]:
    """Take one step; return the losses by name, their sum under `loss`.

    Raises:
        RuntimeError: The gradient is not finite: training diverged.
    """
    values = few_shot.train_step(losses, optimiser, schedule, batch, settings.few_shot())
    own = losses.module if isinstance(losses, DistributedDataParallel) else losses
    own.norms.update()
    return values
