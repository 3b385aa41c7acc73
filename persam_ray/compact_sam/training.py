"""Training a compact Segment Anything Model from random weights (Kirillov et al. 2023, arXiv:2304.02643, appendix A).

    sam = new_compact_sam("cs3darknet_s", image_size=384, seed=0)
    losses = TrainingLosses(sam)           # or DistributedDataParallel around it
    optimiser, schedule = make_optimiser(losses, settings)
    for step in range(settings.all_steps):
        batch = make_batch(scenes, settings, step, rank, workers)
        values = train_step(losses, optimiser, schedule, batch, settings)
    tensors, metadata = to_compact_checkpoint(sam)

A step shows scenes twice: as they are, and with some objects left out and others of another fabric; each view is
cropped and recoloured by itself. A photo is encoded once and then prompted for several masks: by a point, by a box, or
by a point on the object and one beside it. Some masks get a second round, prompted also by a point where the first
answer was wrong and by that answer as mask. Workers take equal shares of a step's photos.

Four things differ from the paper:

- The encoder first learns alone where things lie, from the same masks, and goes on learning it beside the prompts
  (`layout`).
- It also learns to find a thing of one view again in the other (`matching`). The paper's encoder was trained before, on
  photos without masks.
- All three scales learn in the second round too, not only the single mask, because PerSAM refines with all three.
- A first prompt may be two points, one of them beside the object, because PerSAM begins so.

Suffixes: b photos, k target masks of a photo, n all target masks of a batch, m candidates of a mask (the single mask,
then three scales), t prompt tokens, h w rows and columns, c channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from persam_ray.compact_sam.layout import LayoutHead, layout_losses
from persam_ray.compact_sam.losses import candidate_losses, error_points
from persam_ray.compact_sam.matching import VIEWS, match_loss
from persam_ray.compact_sam.muon import MuonAdamW
from persam_ray.compact_sam.network import EMBEDDING, CompactSam
from persam_ray.compact_sam.packed_scenes import Views
from persam_ray.compact_sam.samples import PADDING_POINT, Sample, SampleSettings, make_sample
from persam_ray.mask_rcnn import few_shot, settings
from persam_ray.sam.decoder import predict_all_masks
from persam_ray.sam.model import PIXEL_MEAN, PIXEL_STD


@dataclass(frozen=True)
class SamTrainingSettings:
    """How a compact SAM is trained.

    Attributes:
        layout_steps: Optimiser steps that come first and train the encoder alone, on the layout of small photos. They
            are three times as fast as steps with prompts, and a decoder learns little from untrained features.
        steps: Optimiser steps with prompts.
        photos_per_step: Photos in a step, over all workers, two of each scene; a multiple of twice the workers' number.
        corrected: Targets of a photo that get a second round; at least 1, or the weights for mask prompts would get no
            gradient.
        small_steps: Share of `steps`, in [0, 1], that come first, on photos of `small_px`; they are twice as fast.
        small_px: Side of the model's square input in these steps, a multiple of 32.
        learning_rate: Highest learning rate of AdamW; Muon's are multiples of it. Steps without prompts and steps with
            them have a schedule each: a linear warm-up over `warmup` of the steps, then a cosine to 0.
        weight_decay: Decay of weights with two and more dimensions.
        warmup: Share of the steps, in [0, 1].
        clip_norm: Gradients with a larger norm are scaled down to it.
        seed: Seed of the scenes' order, of augmentation, targets and prompts.
        samples: How samples are made.
    """

    layout_steps: int = 6_800
    steps: int = 2_400
    photos_per_step: int = 8
    corrected: int = 3
    small_steps: float = 0.625
    small_px: int = 256
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    warmup: float = 0.03
    clip_norm: float = 1.0
    seed: int = 0
    samples: SampleSettings = field(default_factory=SampleSettings)

    def __post_init__(self) -> None:
        if not 1 <= self.corrected <= self.samples.targets:
            raise ValueError(f"corrected must be in [1, targets = {self.samples.targets}], but got {self.corrected}")
        if not 0 <= self.small_steps <= 1:
            raise ValueError(f"small_steps must be in [0, 1], but got {self.small_steps}")
        if self.layout_steps < 0:
            raise ValueError(f"layout_steps must be at least 0, but got {self.layout_steps}")
        replace(self.samples, image_size_px=self.small_px)
        self.few_shot()

    @property
    def all_steps(self) -> int:
        """Steps without and with prompts."""
        return self.layout_steps + self.steps

    def few_shot(self) -> settings.FewShotSettings:
        """Return what the optimiser and its schedule have in common with the few-shot detector's.

        Raises:
            ValueError: A value is out of range.
        """
        return settings.FewShotSettings(
            steps=self.steps,
            photos_per_step=self.photos_per_step,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            clip_norm=self.clip_norm,
        )

    def samples_at(self, step: int) -> SampleSettings:
        """Return how the samples of a step are made: small ones first."""
        if step < self.layout_steps:
            return replace(self.samples, image_size_px=self.small_px, targets=0)
        if step - self.layout_steps < self.small_steps * self.steps:
            return replace(self.samples, image_size_px=self.small_px)
        return self.samples


# --- losses ----------------------------------------------------------------------------------------------------------


class TrainingLosses(nn.Module):
    """A model's losses as a forward pass, which is where DistributedDataParallel gathers gradients.

    Args:
        sam: Trained in float32.
        corrected: Targets of a photo that get a second round.
        compute: Type of the layers' arithmetic; BatchNorm's statistics and the losses are always float32.
    """

    def __init__(self, sam: CompactSam, corrected: int = 3, compute: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.questions, self.compute = _Questions(sam, corrected), compute

    def forward(self, batch: Sequence[Sample]) -> dict[str, Tensor]:
        """Return losses by name, scalars; samples 2 i and 2 i + 1 are the two views of a scene.

        `place`, `edge` and `kin` (module `layout`) and `match` (module `matching`) are losses of the features. If
        samples have targets, there are also `focal` (times 20) and `dice` of the candidates that learn, and `iou` of
        all candidates' predicted IoU; each is the mean over photos, their targets and rounds.
        """
        # Not autocast: it casts weights at every use and runs layer norms in float32: a quarter slower on a CPU.
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        kept = {id(weight) for norm in norms for weight in norm.parameters()}
        weights = {
            name: weight if id(weight) in kept else weight.to(self.compute)
            for name, weight in self.questions.named_parameters()
        }
        losses: dict[str, Tensor] = functional_call(self.questions, weights, (batch,))
        return losses


class _Questions(nn.Module):
    """Two rounds of prompts, and the losses of the answers."""

    def __init__(self, sam: CompactSam, corrected: int) -> None:
        super().__init__()
        self.sam, self.corrected = sam, corrected
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layout_head = LayoutHead(EMBEDDING)

    def forward(self, batch: Sequence[Sample]) -> dict[str, Tensor]:
        """Return the losses by name; those of answers where samples have targets."""
        images_b3hw = torch.stack([self._input(sample) for sample in batch])
        features_bchw = self.sam.image_encoder(images_b3hw.contiguous(memory_format=torch.channels_last))
        position_chw = self._position(features_bchw)
        losses = layout_losses(self.layout_head, features_bchw, position_chw, [sample.layout for sample in batch])
        losses["match"] = match_loss(features_bchw, [sample.layout.things_hw for sample in batch])
        return losses | self._answer_losses(features_bchw, batch) if len(batch[0].masks_khw) else losses

    def _answer_losses(self, features_bchw: Tensor, batch: Sequence[Sample]) -> dict[str, Tensor]:
        masks_bkhw = self._like(np.stack([sample.masks_khw for sample in batch])).float()
        xy_bkt2 = np.stack([sample.xy_kt2 for sample in batch])
        labels_bkt = np.stack([sample.labels_kt for sample in batch])
        logits_nmhw, iou_nm = self._decode(features_bchw, xy_bkt2, labels_bkt, None)
        one_point_n = torch.tensor((labels_bkt == PADDING_POINT).any(axis=2).ravel(), device=logits_nmhw.device)
        first = candidate_losses(logits_nmhw, iou_nm, masks_bkhw.flatten(0, 1), single_n=~one_point_n)

        some = slice(self.corrected)
        answers_nhw = logits_nmhw[torch.arange(len(iou_nm)), iou_nm.argmax(dim=1)].detach()
        answers_bkhw = answers_nhw.view(masks_bkhw.shape)[:, some]
        corrections = [
            error_points(answer_khw > 0, sample.masks_khw[some], np.random.default_rng(sample.seed))
            for answer_khw, sample in zip(answers_bkhw.cpu().numpy(), batch, strict=True)
        ]
        xy_bkt2 = np.concatenate([xy_bkt2[:, some], np.stack([xy for xy, _ in corrections])[:, :, None]], axis=2)
        labels_bkt = np.concatenate([labels_bkt[:, some], np.stack([label for _, label in corrections])[:, :, None]], 2)
        logits_nmhw, iou_nm = self._decode(features_bchw, xy_bkt2, labels_bkt, answers_bkhw.flatten(0, 1))
        single_n = torch.ones(len(iou_nm), dtype=torch.bool, device=iou_nm.device)
        second = candidate_losses(logits_nmhw, iou_nm, masks_bkhw[:, some].flatten(0, 1), single_n)
        return {name: (first[name] + second[name]) / 2 for name in first}

    def _input(self, sample: Sample) -> Tensor:
        """Return a photo as SAM's input (3, s, s): normalised, then padded with zeros."""
        normal_hw3 = (sample.image_hw3 - np.array(PIXEL_MEAN, np.float32)) / np.array(PIXEL_STD, np.float32)
        height, width, _ = normal_hw3.shape
        return F.pad(self._like(normal_hw3).permute(2, 0, 1), (0, sample.size_px - width, 0, sample.size_px - height))

    def _like(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.tensor(array).to(self.sam.mask_decoder.iou_token.weight)

    def _decode(
        self,
        features_bchw: Tensor,
        xy_bkt2: npt.NDArray[np.float32],
        labels_bkt: npt.NDArray[np.int64],
        answers_nhw: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return logits (n, m, h, w) and predicted IoU (n, m) of all four candidates, float32.

        Args:
            features_bchw: The photos' features.
            xy_bkt2: Pixels of the model frame.
            labels_bkt: SAM's: -1 padding, 0 beside the object, 1 on it, 2 and 3 corners of its box.
            answers_nhw: Logits of the round before, the mask prompt; None in the first.
        """
        encoder = self.sam.prompt_encoder
        grid_hw = (features_bchw.shape[2], features_bchw.shape[3])
        xy_nt2, labels_nt = torch.tensor(xy_bkt2).flatten(0, 1), torch.tensor(labels_bkt).flatten(0, 1)
        dense_nchw = encoder.no_mask_embed.weight[:, :, None, None]
        if answers_nhw is not None:
            dense_nchw = encoder.mask_downscaling(answers_nhw[:, None].to(dense_nchw.dtype))
        repeated_nchw = features_bchw.repeat_interleave(xy_bkt2.shape[1], dim=0)
        logits_nmhw, iou_nm = predict_all_masks(
            self.sam.mask_decoder,
            repeated_nchw + dense_nchw,
            self._position(features_bchw)[None],
            self._tokens(xy_nt2.to(features_bchw.device), labels_nt.to(features_bchw.device), 16 * grid_hw[0]),
        )
        return logits_nmhw.float(), iou_nm.float()

    def _position(self, features_bchw: Tensor) -> Tensor:
        """Return the dense positional encoding (c, h, w)."""
        position_chw: Tensor = self.sam.prompt_encoder.pe_layer((features_bchw.shape[2], features_bchw.shape[3]))
        return position_chw.to(features_bchw)

    def _tokens(self, xy_nt2: Tensor, labels_nt: Tensor, size_px: int) -> Tensor:
        """Return the prompt tokens (n, t, c), as SAM's PromptEncoder makes them of points and boxes."""
        encoder = self.sam.prompt_encoder
        kinds = [encoder.not_a_point_embed, *encoder.point_embeddings]
        position_ntc: Tensor = encoder.pe_layer.forward_with_coords(xy_nt2 + 0.5, (size_px, size_px))
        kinds_5c = torch.cat([kind.weight for kind in kinds])
        return position_ntc.to(kinds_5c) * (labels_nt >= 0)[..., None] + kinds_5c[labels_nt + 1]


# --- steps -----------------------------------------------------------------------------------------------------------


def make_batch(
    scenes: Sequence[Views], settings: SamTrainingSettings, step: int, rank: int = 0, workers: int = 1
) -> list[Sample]:
    """Return one worker's samples of a step, the two views of a scene side by side; scenes come in epochs, each in an
    order of its own, laid end to end.

    Raises:
        ValueError: A step's scenes cannot be shared evenly.
    """
    if settings.photos_per_step % (VIEWS * workers):
        raise ValueError(
            f"{settings.photos_per_step} photos per step, {VIEWS} of each scene, cannot be shared evenly by {workers} "
            f"worker{'s' if workers > 1 else ''}"
        )
    shown = settings.photos_per_step // VIEWS
    batch = []
    for position in range(step * shown + rank, (step + 1) * shown, workers):
        epoch, index = divmod(position, len(scenes))
        order = np.random.default_rng([settings.seed, epoch]).permutation(len(scenes))
        for number, view in enumerate(scenes[int(order[index])]):
            seed = few_shot.seed_of(settings.seed, VIEWS * position + number)
            batch.append(make_sample(view, settings.samples_at(step), seed))
    return batch


MUON_RATES = {"image_encoder.": 5.0, "mask_decoder.transformer.": 2.4}
"""Learning rate of Muon, by the part of the model, as multiples of AdamW's."""


def make_optimiser(losses: nn.Module, settings: SamTrainingSettings) -> tuple[MuonAdamW, LambdaLR]:
    """Return Muon over the encoder's and the transformer's matrices and AdamW over all other weights, and the schedule:
    linear warm-up and a cosine to 0, twice.
    """
    groups: dict[str, list[nn.Parameter]] = {part: [] for part in (*MUON_RATES, "others", "vectors")}
    for name, weight in losses.named_parameters():
        groups[_group_of(name, weight)].append(weight)
    optimiser = MuonAdamW(
        [
            {
                "params": weights,
                "lr": settings.learning_rate * MUON_RATES.get(part, 1.0),
                "weight_decay": 0.0 if part == "vectors" else settings.weight_decay,
                "muon": part in MUON_RATES,
            }
            for part, weights in groups.items()
        ]
    )

    def factor(step: int) -> float:
        if step < settings.layout_steps:
            return few_shot.learning_rate_factor(step, settings.layout_steps, settings.warmup)
        return few_shot.learning_rate_factor(step - settings.layout_steps, settings.steps, settings.warmup)

    return optimiser, LambdaLR(optimiser, factor)


def _group_of(name: str, weight: nn.Parameter) -> str:
    """Return the part of MUON_RATES that a weight belongs to, or `others`, or `vectors` for norms and biases."""
    if weight.ndim < 2:
        return "vectors"
    is_wide = weight.shape[1] > 3  # neither the first convolution nor a depthwise one: their rows are no directions
    return next((part for part in MUON_RATES if part in name and is_wide), "others")


def train_step(
    losses: nn.Module,
    optimiser: MuonAdamW,
    schedule: LambdaLR,
    batch: Sequence[Sample],
    settings: SamTrainingSettings,
) -> dict[str, float]:
    """Take one step; return the losses by name, their sum under `loss`.

    Raises:
        RuntimeError: The gradient is not finite: training diverged.
    """
    return few_shot.train_step(losses, optimiser, schedule, batch, settings.few_shot())
