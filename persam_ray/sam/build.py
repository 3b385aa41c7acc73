"""From a checkpoint's tensors to modules: the architecture is read from names and shapes, never asked for.

Three image encoders are known: the ViT of `segment_anything` in any width, depth and pattern of global blocks;
MobileSAM's TinyViT (`timm`'s modules under MobileSAM's names); compact SAM (a `timm` backbone with a small neck).
The prompt encoder and the mask decoder are `segment_anything`'s in all of them.
"""

import math
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import timm
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from timm.models.tiny_vit import TinyVit
from torch import Tensor, nn
from torch.nn import functional as F

from persam_ray.errors import CheckpointError
from persam_ray.sam.layout import detect_layout, image_size_px
from persam_ray.types import Checkpoint, Tensors

DECODER_HEADS = 8  # of every published SAM; the number leaves no trace in a tensor's shape

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True)
class SamModules:
    """SAM's three parts, filled, on the CPU, and the side of the square input in pixels."""

    image_encoder: nn.Module
    prompt_encoder: PromptEncoder
    mask_decoder: MaskDecoder
    image_size_px: int


def build_modules(checkpoint: Checkpoint) -> SamModules:
    """Build SAM's modules and fill them with the checkpoint's tensors (as float32).

    Raises:
        CheckpointError: Unknown layout, or tensors missing, left over or of unexpected shapes.
    """
    layout, size_px = detect_layout(checkpoint), image_size_px(checkpoint)
    try:
        image_encoder = {"vit": _vit, "mobile": _mobile, "compact": _compact}[layout](checkpoint)
        prompt_encoder = _filled(_prompt_encoder(checkpoint.tensors, size_px), checkpoint, "prompt_encoder.")
        mask_decoder = _filled(_mask_decoder(checkpoint.tensors), checkpoint, "mask_decoder.")
    except KeyError as error:
        raise CheckpointError(f"the checkpoint has no tensor {error}, which SAM ({layout}) needs") from error
    except (IndexError, ValueError, AssertionError, RuntimeError) as error:  # torch's are of the last type
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"the checkpoint's tensors have shapes that no SAM ({layout}) has: {error}") from error
    return SamModules(image_encoder, prompt_encoder, mask_decoder, size_px)


def _filled(module: ModuleT, checkpoint: Checkpoint, prefix: str) -> ModuleT:
    return _load(module, _state(checkpoint, prefix), prefix)


def _state(checkpoint: Checkpoint, prefix: str) -> dict[str, Tensor]:
    named = checkpoint.tensors.items()
    return {name.removeprefix(prefix): _tensor(array) for name, array in named if name.startswith(prefix)}


def _tensor(array: npt.NDArray[np.generic]) -> Tensor:
    """Make a float32 tensor, sharing memory where the array already is float32; counters keep their type."""
    if np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float32, copy=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # read-only memory is shared between processes; frozen weights are only read
        return torch.from_numpy(array)


def _load(module: ModuleT, state: dict[str, Tensor], prefix: str) -> ModuleT:
    try:
        module.load_state_dict(state, assign=True)
    except RuntimeError as error:
        details = " ".join(str(error).split())[:500]
        raise CheckpointError(f"the checkpoint's {prefix}* tensors do not fit: {details}") from error
    return module.eval().requires_grad_(False)


# --- segment_anything's ViT ------------------------------------------------------------------------------------------


def _vit(checkpoint: Checkpoint) -> ImageEncoderViT:
    shapes = {
        name.removeprefix("image_encoder."): array.shape
        for name, array in checkpoint.tensors.items()
        if name.startswith("image_encoder.")
    }
    embed_dim, _, patch_size, _ = shapes["patch_embed.proj.weight"]
    grid = shapes["pos_embed"][1]
    depth = _count(shapes, r"blocks\.(\d+)\.")
    # A block's table of relative positions has 2 * side - 1 rows: side is the grid in global blocks, else the window.
    sides = [(shapes[f"blocks.{index}.attn.rel_pos_h"][0] + 1) // 2 for index in range(depth)]
    windows = {side for side in sides if side != grid}
    if len(windows) > 1:
        raise CheckpointError(
            f"the image encoder has blocks of several window sizes ({sorted(windows)}), allowed is one"
        )
    with torch.device("meta"):
        encoder = ImageEncoderViT(
            img_size=grid * patch_size,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=embed_dim // shapes["blocks.0.attn.rel_pos_h"][1],
            mlp_ratio=shapes["blocks.0.mlp.lin1.weight"][0] / embed_dim,
            out_chans=shapes["neck.0.weight"][0],
            qkv_bias="blocks.0.attn.qkv.bias" in shapes,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=windows.pop() if windows else 0,
            global_attn_indexes=tuple(index for index, side in enumerate(sides) if side == grid),
        )
    return _filled(encoder, checkpoint, "image_encoder.")


def _count(names: Iterable[str], pattern: str) -> int:
    """Return one more than the highest number that the pattern's group finds at the start of a name."""
    return 1 + max((int(found[1]) for found in (re.match(pattern, name) for name in names) if found), default=-1)


# --- MobileSAM's TinyViT ---------------------------------------------------------------------------------------------


class MobileEncoder(nn.Module):
    """TinyViT of `timm` with SAM's neck; its last stage keeps stride 16, as in MobileSAM (arXiv:2306.14289)."""

    def __init__(self, backbone: Any, neck: nn.Sequential) -> None:
        super().__init__()
        self.backbone, self.neck = backbone, neck
        backbone.stages[-1].downsample.conv2.conv.stride = (1, 1)

    def forward(self, image_b3hw: Tensor) -> Tensor:
        """Return the features (b, 256, h / 16, w / 16) of normalised images."""
        features: Tensor = self.neck(self.backbone.stages(self.backbone.patch_embed(image_b3hw)))
        return features


def _mobile(checkpoint: Checkpoint) -> nn.Module:
    state = {_timm_name(name): tensor for name, tensor in _state(checkpoint, "image_encoder.").items()}
    state = {name: tensor for name, tensor in state.items() if not name.startswith("unused.")}
    stages = range(1, _count(state, r"backbone\.stages\.(\d+)\."))
    biases = [state[f"backbone.stages.{stage}.blocks.0.attn.attention_biases"].shape for stage in stages]
    widths = [state["backbone.patch_embed.conv2.conv.weight"].shape[0]]
    widths += [state[f"backbone.stages.{stage}.downsample.conv3.conv.weight"].shape[0] for stage in stages]
    backbone: Any = TinyVit(
        num_classes=0,
        embed_dims=tuple(widths),
        depths=tuple(_count(state, rf"backbone\.stages\.{stage}\.blocks\.(\d+)\.") for stage in (0, *stages)),
        num_heads=(1, *(heads for heads, _ in biases)),  # the first stage has no attention
        window_sizes=(7, *(math.isqrt(offsets) for _, offsets in biases)),
    )
    backbone.head = nn.Identity()
    return _load(MobileEncoder(backbone, _neck(widths[-1])), state, "image_encoder.")


def _timm_name(name: str) -> str:
    """Translate a tensor name of MobileSAM's TinyViT to `timm`'s, which puts a downsampling before its stage."""
    if name.startswith(("head.", "norm_head.")):
        return f"unused.{name}"
    if name.startswith("neck."):
        return name
    name = name.replace(".c.weight", ".conv.weight")
    name = re.sub(r"^patch_embed\.seq\.0\.", "patch_embed.conv1.", name)
    name = re.sub(r"^patch_embed\.seq\.2\.", "patch_embed.conv2.", name)
    name = re.sub(r"^layers\.(\d+)\.downsample\.", lambda found: f"stages.{int(found[1]) + 1}.downsample.", name)
    return "backbone." + re.sub(r"^layers\.", "stages.", name)


def _neck(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 256, kernel_size=1, bias=False),
        LayerNorm2d(256),
        nn.Conv2d(256, 256, kernel_size=3, padding=1, bias=False),
        LayerNorm2d(256),
    )


# --- compact SAM -----------------------------------------------------------------------------------------------------


class CompactEncoder(nn.Module):
    """A convolutional backbone whose strides 8, 16 and 32 are merged at stride 16."""

    def __init__(self, backbone: nn.Module, channels: tuple[int, int, int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.lateral = nn.ModuleList(nn.Conv2d(width, 256, kernel_size=1, bias=False) for width in channels)
        self.fuse = nn.Sequential(nn.Conv2d(256, 256, kernel_size=3, padding=1, bias=False), LayerNorm2d(256))

    def forward(self, image_b3hw: Tensor) -> Tensor:
        """Return the features (b, 256, h / 16, w / 16) of normalised images."""
        stride_8, stride_16, stride_32 = self.backbone(image_b3hw)
        merged = self.lateral[1](stride_16) + F.interpolate(self.lateral[2](stride_32), scale_factor=2)
        features: Tensor = self.fuse(merged + F.avg_pool2d(self.lateral[0](stride_8), 2))
        return features


def _compact(checkpoint: Checkpoint) -> nn.Module:
    name = checkpoint.metadata.get("backbone", "")
    if not timm.is_model(name):
        raise CheckpointError(f"a compact SAM names its timm backbone in the metadata, not {name!r}")
    backbone: Any = timm.create_model(name, features_only=True, out_indices=(2, 3, 4), pretrained=False)
    encoder = CompactEncoder(backbone, tuple(backbone.feature_info.channels()))
    return _filled(encoder, checkpoint, "image_encoder.")


# --- the parts that all of them share --------------------------------------------------------------------------------


def _prompt_encoder(tensors: Tensors, image_size_px: int) -> PromptEncoder:
    embed_dim = tensors["prompt_encoder.no_mask_embed.weight"].shape[1]
    grid = image_size_px // 16
    with torch.device("meta"):
        return PromptEncoder(
            embed_dim=embed_dim,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size_px, image_size_px),
            mask_in_chans=tensors["prompt_encoder.mask_downscaling.3.weight"].shape[0],
        )


def _mask_decoder(tensors: Tensors) -> MaskDecoder:
    width = tensors["mask_decoder.iou_token.weight"].shape[1]
    with torch.device("meta"):
        return MaskDecoder(
            transformer_dim=width,
            transformer=TwoWayTransformer(
                depth=_count(tensors, r"mask_decoder\.transformer\.layers\.(\d+)\."),
                embedding_dim=width,
                num_heads=DECODER_HEADS,
                mlp_dim=tensors["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
            ),
            num_multimask_outputs=tensors["mask_decoder.mask_tokens.weight"].shape[0] - 1,
            iou_head_depth=_count(tensors, r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\."),
            iou_head_hidden_dim=tensors["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
        )
