"""A compact Segment Anything Model to train, `segment_anything`'s decoder on a `timm` backbone, and its checkpoints."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from persam_ray.errors import CheckpointError
from persam_ray.sam.build import DECODER_HEADS, CompactEncoder
from persam_ray.sam.layout import COMPACT_FORMAT
from persam_ray.types import Checkpoint

WAVE_CYCLES = (0.5, 6.0)
"""Scales of the waves that positions are encoded by, in cycles over half the image; SAM's are 1."""

SHARPNESS = 2.0
"""Factor on the initial query weights (keys start as copies): above 1, attention by place starts sharper."""

EMBEDDING = 256  # channels of the features; CompactEncoder's neck has as many


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
        if (strides := layers.feature_info.reduction()) != [8, 16, 32]:
            raise ValueError(f"{backbone} has features at strides {strides}, but 8, 16 and 32 are needed")
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
        _use_fast_norms(self)


class _ChannelNorm(nn.LayerNorm):
    """`segment_anything`'s LayerNorm2d by the fused kernel; the same weights under the same names."""

    def forward(self, x_bchw: Tensor) -> Tensor:
        return super().forward(x_bchw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _use_fast_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, LayerNorm2d):
            setattr(module, name, _ChannelNorm(child.weight.shape[0], eps=child.eps))
        else:
            _use_fast_norms(child)


def new_compact_sam(backbone: str, image_size: int, seed: int) -> CompactSam:
    """Return a compact SAM with random weights that follow from the seed, on the CPU.

    Raises:
        ValueError: `timm` has no such backbone, or one with other strides, or the image size is no multiple of 32.
    """
    if not timm.is_model(backbone):
        raise ValueError(f"timm has no model {backbone!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sam = CompactSam(backbone, image_size)
        _attend_by_place(sam)
        return sam


@torch.no_grad()
def _attend_by_place(sam: CompactSam) -> None:
    """Let a prompt's token attend, before any training, to the image's cells at its place, and they to it.

    SAM encodes positions by random waves of about one cycle, which are alike for places 8% of the image apart. Its
    queries and keys are different random projections, so similar vectors do not give similar queries and keys. Here the
    waves have several scales, and keys start with the weights of queries. (500 steps showed no difference to SAM's own
    start; the bundled weights were trained from this one.)
    """
    waves_2c = sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    shortest, longest = (math.log(cycles) for cycles in WAVE_CYCLES)
    waves_2c.mul_(torch.empty(waves_2c.shape[1]).uniform_(shortest, longest).exp())
    transformer = sam.mask_decoder.transformer
    attentions = [transformer.final_attn_token_to_image]
    for block in transformer.layers:
        attentions += [block.cross_attn_token_to_image, block.cross_attn_image_to_token]
    for attention in attentions:
        attention.q_proj.weight.mul_(SHARPNESS)
        attention.k_proj.weight.copy_(attention.q_proj.weight)


def load_weights(sam: CompactSam, checkpoint: Checkpoint) -> None:
    """Fill a model with a compact SAM's weights; the image size may be another.

    Raises:
        CheckpointError: The weights have another backbone, or are not a compact SAM's.
    """
    backbone = checkpoint.metadata.get("backbone")
    if checkpoint.metadata.get("format") != COMPACT_FORMAT or backbone != sam.backbone_name:
        raise CheckpointError(f"no compact SAM with {sam.backbone_name}, but {backbone or 'something else'}")
    try:
        sam.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in checkpoint.tensors.items()})
    except RuntimeError as error:
        raise CheckpointError(" ".join(str(error).split())[:500]) from error


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
