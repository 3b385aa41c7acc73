"""The baseline: torchvision's Mask R-CNN, built for a few categories, started from any weights.

Training is in few_shot.py, finding instances in prediction.py.

Class 0 is the background, category i of the specification is class i + 1.
Suffixes: h w rows and columns, n instances, m rows and columns of a mask within its box.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v2
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.poolers import initLevelMapper

from persam_ray.compute.precision import Precision, compute_dtype
from persam_ray.images import fitted_size_hw
from persam_ray.types import Checkpoint

Norm = Literal["frozen_batch", "group"]

FORMAT = "persam-ray/mask-rcnn/1"

PIXEL_INPUTS = {
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "symmetric": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
}
"""Mean and standard deviation that RGB in [0, 1] is normalised with: torchvision's, and value / 127.5 - 1."""

LAST_LAYERS = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")
"""The layers whose rows belong to classes."""


@dataclass(frozen=True)
class _Backbone:
    """One kind of model.

    Attributes:
        build: Makes it with BatchNorms, from `num_classes` and the options of torchvision's MaskRCNN.
        frame_px: Default shorter and longer side of a photo.
        frozen: Name prefixes in the backbone's body that are not trained when it starts from pretrained weights.
    """

    build: Callable[..., MaskRCNN]
    frame_px: tuple[int, int]
    frozen: tuple[str, ...]


def _mobilenet(num_classes: int, **options: Any) -> MaskRCNN:
    """Make the light model: MobileNetV2 under the heads of `maskrcnn_resnet50_fpn_v2`, half as wide."""
    width, norm = 128, nn.BatchNorm2d
    # The last block of each stride, 4 to 32; the 1,280-wide layer after them is left out.
    levels, widths = {"3": "0", "6": "1", "13": "2", "17": "3"}, [24, 32, 96, 320]
    return MaskRCNN(
        BackboneWithFPN(mobilenet_v2().features, levels, widths, width, norm_layer=norm),
        # Three quarters of torchvision's: the frame is half as large, but photos of things are filled by them.
        rpn_anchor_generator=AnchorGenerator(((24,), (48,), (96,), (192,), (384,)), ((0.5, 1.0, 2.0),) * 5),
        rpn_head=RPNHead(width, num_anchors=3, conv_depth=2),
        box_head=FastRCNNConvFCHead((width, 7, 7), [width] * 4, [1024], norm_layer=norm),
        box_predictor=FastRCNNPredictor(1024, num_classes),
        mask_head=MaskRCNNHeads(width, [width] * 4, 1, norm_layer=norm),
        mask_predictor=MaskRCNNPredictor(width, width, num_classes),
        **options,
    )


_NO_DOWNLOAD = {"weights": None, "weights_backbone": None}
_RESNET_FRAME_PX = (800, 1333)  # what COCO's weights were trained with
_RESNET_FROZEN = ("conv1.", "layer1.", "layer2.")
BACKBONES = {
    "mobilenet_v2": _Backbone(_mobilenet, (384, 576), tuple(f"{index}." for index in range(7))),  # up to stride 8
    "resnet50_fpn": _Backbone(partial(maskrcnn_resnet50_fpn, **_NO_DOWNLOAD), _RESNET_FRAME_PX, _RESNET_FROZEN),
    "resnet50_fpn_v2": _Backbone(partial(maskrcnn_resnet50_fpn_v2, **_NO_DOWNLOAD), _RESNET_FRAME_PX, _RESNET_FROZEN),
}


@dataclass(frozen=True)
class MaskRcnnSpec:
    """The settings that are needed to rebuild a model around its tensors.

    Attributes:
        backbone: One of BACKBONES.
        categories: Their names, in the order of their classes (the first is class 1).
        frame_px: A photo is resized until its shorter side is the first or its longer side the second.
        pixel_input: One of PIXEL_INPUTS.
        body_norm: `frozen_batch` (statistics of the start weights, never updated) or `group`.
        head_norm: The same for the pyramid and the heads, where the backbone's variant has norms there.

    Raises:
        ValueError: A value that is not one of these, no category, a name twice, sizes that are no positive range.
    """

    backbone: str
    categories: tuple[str, ...]
    frame_px: tuple[int, int]
    pixel_input: str = "imagenet"
    body_norm: Norm = "group"
    head_norm: Norm = "group"

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise ValueError(f"unknown backbone {self.backbone!r}, allowed are {', '.join(BACKBONES)}")
        if not self.categories or len(set(self.categories)) < len(self.categories):
            raise ValueError(f"categories must be distinct names, at least one, but got {list(self.categories)}")
        if not 0 < self.frame_px[0] <= self.frame_px[1]:
            raise ValueError(f"the frame must have 0 < shorter <= longer side, but got {self.frame_px}")
        if self.pixel_input not in PIXEL_INPUTS:
            raise ValueError(f"unknown pixel input {self.pixel_input!r}, allowed are {', '.join(PIXEL_INPUTS)}")
        if not {self.body_norm, self.head_norm} <= {"frozen_batch", "group"}:
            raise ValueError(f"norms must be frozen_batch or group, but got {self.body_norm!r} and {self.head_norm!r}")

    def frame_hw(self, photo_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the size (h, w) in pixels that a photo has for the model."""
        return fitted_size_hw(photo_hw, *self.frame_px)


@dataclass(frozen=True)
class MaskRcnn:
    """torchvision's model and what it is made for."""

    spec: MaskRcnnSpec
    detector: MaskRCNN


@dataclass(frozen=True)
class StartReport:
    """What became of the start weights.

    Attributes:
        used: Tensors of the model that were filled (torchvision's names).
        unused: Tensors of the start weights that were not taken: no such layer, or rows of other classes.
        random: Tensors of the model that keep their random start.
    """

    used: tuple[str, ...]
    unused: tuple[str, ...]
    random: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{len(self.used)} tensors filled, {len(self.random)} left at random; {len(self.unused)} given but not used"
        )


def default_backbone(device_type: str) -> str:
    """Return the backbone to use on `cuda` or `cpu`."""
    return "mobilenet_v2" if device_type == "cpu" else "resnet50_fpn_v2"


def network_dtype(precision: Precision, device_type: str) -> torch.dtype:
    """Return the type that the network computes in.

    With the light backbone on two cores with AMX, a training step of two photos took 0.61 s in bfloat16 rather than
    0.84 s in float32, and finding the instances of a photo 0.27 s rather than 0.48 s.
    """
    return compute_dtype(precision, torch.device(device_type))


def compute_in(model: MaskRcnn, dtype: torch.dtype) -> None:
    """Let the convolutions compute in a type; what they are made of and what they give stays float32.

    Anchors, boxes and scores must not be bfloat16: it has 8 bits, so that boxes would snap to 2 pixels and more, and
    scores would tie.
    """
    detector = model.detector
    for module in (detector.backbone, detector.rpn.head, detector.roi_heads.box_head, detector.roi_heads.mask_head):
        module.forward = partial(_forward_in, type(module).forward, module, dtype)


def _forward_in(forward: Callable[..., Any], module: nn.Module, dtype: torch.dtype, *inputs: Any) -> Any:
    device_type = next(module.parameters()).device.type
    with torch.autocast(device_type, dtype, enabled=dtype != torch.float32):
        return _to_float32(forward(module, *inputs))


def _to_float32(output: Any) -> Any:
    """Return a tensor, or a list, tuple or mapping of them, whose tensors of less precision have become float32."""
    if isinstance(output, Tensor):
        return output.float() if output.dtype == torch.bfloat16 else output
    if isinstance(output, Mapping):
        return OrderedDict((name, _to_float32(value)) for name, value in output.items())
    return type(output)(_to_float32(value) for value in output)


def build_mask_rcnn(
    backbone: str,
    categories: Sequence[str],
    start: Checkpoint | None = None,
    *,
    frame_px: tuple[int, int] | None = None,
    pixel_input: str | None = None,
    seed: int = 0,
) -> tuple[MaskRcnn, StartReport]:
    """Build a detector on the CPU and fill it with start weights.

    Norms follow the start weights. Pretrained BatchNorms are frozen: a batch is one photo, whose statistics would be
    noise, and ten photos are too few to estimate new ones. What starts at random has GroupNorm, which needs no batch.

    Args:
        backbone: One of BACKBONES.
        categories: Names of what to find.
        start: A detector in torchvision's naming, or a classifier's weights for the body alone; None for random.
        frame_px: Shorter and longer side that photos are resized to; None for the backbone's own.
        pixel_input: One of PIXEL_INPUTS; None for what the start weights' metadata say, else `imagenet`.
        seed: Seed of the weights that start at random.

    Raises:
        ValueError: Unknown backbone, categories or pixel input, or start weights that do not fit.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"unknown backbone {backbone!r}, allowed are {', '.join(BACKBONES)}")
    body_norm, head_norm = _norms(start)
    frame_px, pixel_input = frame_px or BACKBONES[backbone].frame_px, pixel_input or _said_pixel_input(start)
    model = _new(MaskRcnnSpec(backbone, tuple(categories), frame_px, pixel_input, body_norm, head_norm), seed)
    return model, _fill(model, start) if start is not None else StartReport((), (), tuple(model.detector.state_dict()))


def _new(spec: MaskRcnnSpec, seed: int = 0) -> MaskRcnn:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = _detector(spec).to(memory_format=torch.channels_last)  # a tenth faster on a CPU
    if spec.body_norm == "frozen_batch":
        for name, parameter in detector.backbone.body.named_parameters():
            parameter.requires_grad_(not name.startswith(BACKBONES[spec.backbone].frozen))
    return MaskRcnn(spec, detector)


def _detector(spec: MaskRcnnSpec) -> MaskRCNN:
    mean, std = PIXEL_INPUTS[spec.pixel_input]
    detector = BACKBONES[spec.backbone].build(
        num_classes=1 + len(spec.categories),
        min_size=spec.frame_px[0],
        max_size=spec.frame_px[1],
        image_mean=mean,
        image_std=std,
        rpn_pre_nms_top_n_train=1000,  # torchvision's 2000, 2000 and 512 boxes are for photos of many objects
        rpn_post_nms_top_n_train=500,
        box_batch_size_per_image=64,
        _skip_resize=True,  # in training, where few_shot.py resizes, with jitter
    )
    _set_norms(detector.backbone.body, spec.body_norm)
    _set_norms(detector, spec.head_norm)
    for pool in (detector.roi_heads.box_roi_pool, detector.roi_heads.mask_roi_pool):
        # Left alone, it infers the strides from the first photo it meets; a thin one (576 x 14) misleads it for good.
        pool.scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
        pool.map_levels = initLevelMapper(2, 5, canonical_scale=224, canonical_level=4)
    return detector


def _set_norms(module: nn.Module, kind: Norm) -> None:
    """Replace each BatchNorm below a module."""
    for name, child in module.named_children():
        if not isinstance(child, nn.BatchNorm2d):
            _set_norms(child, kind)
        elif kind == "frozen_batch":
            setattr(module, name, FrozenBatchNorm2d(child.num_features))
        else:
            setattr(module, name, nn.GroupNorm(child.num_features // 8, child.num_features))  # all are multiples of 8


# --- start weights and checkpoints -----------------------------------------------------------------------------------


def _norms(start: Checkpoint | None) -> tuple[Norm, Norm]:
    """Return the norms of the body and of the rest: frozen where the start weights bring statistics."""
    statistics = [name for name in start.tensors if name.endswith(".running_var")] if start else []
    heads = [name for name in statistics if name.startswith(("backbone.fpn.", "roi_heads."))]
    return "frozen_batch" if len(statistics) > len(heads) else "group", "frozen_batch" if heads else "group"


def _said_pixel_input(start: Checkpoint | None) -> str:
    """Return the pixel input that the start weights' metadata tell."""
    if start is None:
        return "imagenet"
    if own := _own_spec(start):
        return own.pixel_input
    said = start.metadata.get("input", "imagenet")
    return "symmetric" if "127.5 - 1" in said else said


def _own_spec(start: Checkpoint) -> MaskRcnnSpec | None:
    return _read_spec(start.metadata) if start.metadata.get("format") == FORMAT else None


def _fill(model: MaskRcnn, start: Checkpoint) -> StartReport:
    detector, backbone = model.detector, model.spec.backbone
    whole = any(name.startswith("backbone.") for name in start.tensors)
    theirs = {
        name if whole else f"backbone.body.{name.removeprefix('features.')}": name
        for name in start.tensors
        if not name.endswith(".num_batches_tracked")  # frozen norms do not count
    }
    own = _own_spec(start)
    same_classes = own is not None and own.categories == model.spec.categories
    unused = set() if same_classes else {name for name in theirs if name.startswith(LAST_LAYERS)}
    state = {name: _tensor(start.tensors[their]) for name, their in theirs.items() if name not in unused}
    try:
        missing, unexpected = detector.load_state_dict(state, strict=False)  # it knows torchvision's older names
    except RuntimeError as error:
        raise ValueError(f"the start weights do not fit {backbone}: {' '.join(str(error).split())[:500]}") from error
    names = list(detector.state_dict())
    body = [name for name in names if name.startswith("backbone.body.")]
    filled = set(body) - set(missing)
    if len(filled) < len(body):
        raise ValueError(
            f"the start weights fill {len(filled)} of the {len(body)} tensors of {backbone}'s body: expected a detector"
            " (backbone.body.*) or a classifier (features.* or layer1.*, ...) in torchvision's naming, but found "
            f"{len(start.tensors)} tensors ({', '.join(sorted(start.tensors)[:3])}, ...)"
        )
    unused.update(unexpected)
    return StartReport(
        used=tuple(name for name in names if name not in missing),
        unused=tuple(their for name, their in theirs.items() if name in unused),
        random=tuple(missing),
    )


def _tensor(array: npt.NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.array(array))  # a copy: files are mapped read-only


def to_checkpoint(model: MaskRcnn) -> tuple[dict[str, npt.NDArray[np.generic]], dict[str, str]]:
    """Return a copy of the tensors, in torchvision's naming, and metadata, both as safetensors stores them."""
    state = model.detector.state_dict()
    tensors = {name: np.array(tensor.detach().cpu().numpy(), order="C") for name, tensor in state.items()}
    return tensors, {"format": FORMAT, "spec": json.dumps(asdict(model.spec))}


def from_checkpoint(tensors: Mapping[str, npt.NDArray[np.generic]], metadata: Mapping[str, str]) -> MaskRcnn:
    """Build the model of `to_checkpoint` again, on the CPU.

    Raises:
        ValueError: The metadata are not ours, or tensors are missing, left over or of other shapes.
    """
    model = _new(_read_spec(metadata))
    try:
        model.detector.load_state_dict({name: _tensor(array) for name, array in tensors.items()})
    except RuntimeError as error:
        raise ValueError(f"the checkpoint does not fit: {' '.join(str(error).split())[:500]}") from error
    return model


def _read_spec(metadata: Mapping[str, str]) -> MaskRcnnSpec:
    if metadata.get("format") != FORMAT:
        raise ValueError(f"not a Mask R-CNN checkpoint: its format is {metadata.get('format')!r}, expected {FORMAT!r}")
    try:
        stored = json.loads(metadata["spec"]).items()
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in stored}
        return MaskRcnnSpec(**values)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"the metadata of the Mask R-CNN checkpoint cannot be read: {error!r}") from error
