"""Deterministic weights for SAM-shaped models: the same numbers on every machine, for comparing arithmetic.

They prove nothing about quality: the masks that they give mean nothing.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from persam_ray.sam.build import CompactEncoder
from persam_ray.sam.layout import COMPACT_FORMAT
from persam_ray.types import Checkpoint

Tensors = dict[str, npt.NDArray[np.generic]]

NORMS = ("neck.1.weight", "neck.3.weight", "upscaling.1.weight", "downscaling.1.weight", "downscaling.4.weight")


def seeded(state: Mapping[str, Tensor], seed: int) -> Tensors:
    """Fill a state dict's names and shapes, in sorted order, from one NumPy generator.

    Weights are normal with standard deviation 1.2 / sqrt(fan_in); normalisation weights near 1; biases, position tables
    and embeddings small normals; integer counters keep their value.
    """
    generator = np.random.default_rng(seed)
    return {
        name: _draw(name, tuple(tensor.shape), generator) if tensor.is_floating_point() else tensor.numpy()
        for name, tensor in sorted(state.items())
    }


def _draw(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> npt.NDArray[np.float32]:
    noise = generator.standard_normal(shape).astype(np.float32)
    if "positional_encoding_gaussian_matrix" in name:
        values = noise
    elif name.endswith("running_var"):
        values = (1.0 + 0.1 * np.abs(noise)).astype(np.float32)
    elif name.endswith("bn.weight"):
        values = 1.0 + 0.1 * noise
    elif name.endswith("bias"):
        values = 0.05 * noise
    elif "norm" in name or name.endswith(NORMS):
        values = 1.0 + 0.1 * noise
    elif "pos_embed" in name or "rel_pos" in name:
        values = 0.2 * noise
    elif noise.ndim == 1 or ("embed" in name and noise.shape[0] == 1) or "token" in name:
        values = 0.5 * noise
    else:
        values = 1.2 * noise / np.sqrt(int(np.prod(shape[1:])))
    return np.ascontiguousarray(values, dtype=np.float32)


def official_sam(
    *,
    image_size: int = 1024,
    embed_dim: int = 64,
    depth: int = 4,
    heads: int = 2,
    global_blocks: tuple[int, ...] = (1, 3),
    window: int = 14,
) -> Sam:
    """Build the package's own SAM with a ViT of any size, and its standard prompt encoder and mask decoder."""
    grid = image_size // 16
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=image_size,
            patch_size=16,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=heads,
            mlp_ratio=4,
            out_chans=256,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=window,
            global_attn_indexes=global_blocks,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=256,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        ),
        mask_decoder=official_decoder(),
    ).eval()


def official_decoder() -> MaskDecoder:
    """Build the package's standard mask decoder."""
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    return MaskDecoder(num_multimask_outputs=3, transformer=transformer, transformer_dim=256)


def fill(module: nn.Module, seed: int) -> Tensors:
    """Fill a module with seeded weights and return them."""
    tensors = seeded(module.state_dict(), seed)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
    return tensors


def compact_checkpoint(metadata: Mapping[str, str] | None = None) -> Checkpoint:
    """Return a compact SAM of 128 pixels with PyTorch's own initial weights, seeded."""
    torch.manual_seed(0)
    backbone: Any = timm.create_model("mobilenetv2_035", features_only=True, out_indices=(2, 3, 4), pretrained=False)
    encoder = CompactEncoder(backbone, tuple(backbone.feature_info.channels()))
    parts = official_sam(image_size=128, embed_dim=8, depth=1, heads=1, global_blocks=())
    named = {"image_encoder": encoder, "prompt_encoder": parts.prompt_encoder, "mask_decoder": parts.mask_decoder}
    tensors = {
        f"{part}.{name}": value.numpy() for part, module in named.items() for name, value in module.state_dict().items()
    }
    default = {"format": COMPACT_FORMAT, "backbone": "mobilenetv2_035", "image_size": "128"}
    return Checkpoint(tensors, default if metadata is None else metadata)
