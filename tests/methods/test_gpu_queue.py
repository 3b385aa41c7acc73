"""On a GPU nothing between the features and the masks waits for it, or is computed elsewhere.

Shown without one, on tensors that have a shape and a device but no numbers: whatever asks for a number fails.
"""

import copy
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.utils._python_dispatch import TorchDispatchMode

from persam_ray.compute import packed_layers
from persam_ray.compute.precision import Precision
from persam_ray.methods import answers, persam, persam_f
from persam_ray.methods.persam import PersamTarget
from persam_ray.methods.persam_f import PersamFTarget
from persam_ray.sam.model import Sam
from persam_ray.types import Checkpoint, Frame

CUDA = torch.device("cuda")


class Elsewhere(TorchDispatchMode):
    """Collects operators that take or make a tensor on the host."""

    found: ClassVar[list[str]]

    def __init__(self) -> None:
        super().__init__()
        type(self).found = []

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tensors = [one for one in (*args, made) if isinstance(one, Tensor)]
        if any(tensor.device.type == "cpu" for tensor in tensors):
            self.found.append(str(func))
        return made


@pytest.fixture(params=["float32", "bfloat16"])
def gpu_sam(
    request: pytest.FixtureRequest, small_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sam]:
    """A SAM as it would be on a GPU, without numbers."""
    monkeypatch.setattr(packed_layers, "_can_be_packed", lambda _layer: False)  # as on a GPU
    monkeypatch.setattr(answers, "Download", lambda tensors: tensors)  # page-locked memory needs a GPU's driver
    precision: Precision = request.param
    sam = copy.deepcopy(Sam(small_checkpoint, precision=precision))
    with FakeTensorMode():
        for value in vars(sam).values():
            if isinstance(value, nn.Module):
                without_numbers(value)
        sam._image_pe_1chw, sam.device = on_gpu(sam._image_pe_1chw), CUDA
        yield sam


def without_numbers(module: nn.Module) -> None:
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = on_gpu(tensor)  # type: ignore[assignment]  # a module's own slots


def on_gpu(like: Tensor) -> Tensor:
    made = torch.empty(like.shape, dtype=like.dtype, device=CUDA)
    return nn.Parameter(made, requires_grad=False) if isinstance(like, nn.Parameter) else made


@pytest.mark.parametrize("method", ["aligned", "official", "persam_f"])
def test_masks_are_asked_for_without_waiting(gpu_sam: Sam, method: Any) -> None:
    with Elsewhere() as elsewhere:
        features_bchw = torch.empty(2, 256, *gpu_sam.grid_hw, device=CUDA)
        frames = [Frame((90, 120), (96, 128)), Frame((300, 100), (128, 43))]
        if method == "persam_f":
            fitted = PersamFTarget("cup", torch.empty(256, device=CUDA), torch.empty(3, device=CUDA))
            masks = persam_f.segment_f(gpu_sam, features_bchw, frames, [fitted] * 3)
        else:
            target = PersamTarget("cup", torch.empty(256, device=CUDA), torch.empty(256, device=CUDA))
            masks = persam.segment(gpu_sam, features_bchw, frames, [target] * 3, method)
    download: Any = masks._download  # the fixture's
    scores_2n, *masks_hw = download
    assert scores_2n.shape == (2, 6)
    assert [tuple(mask_hw.shape) for mask_hw in masks_hw] == 3 * [(90, 120)] + 3 * [(300, 100)]
    assert {mask_hw.device.type for mask_hw in masks_hw} == {"cuda"}
    assert elsewhere.found == []


@pytest.mark.parametrize("gpu_sam", ["bfloat16"], indirect=True)  # in float32 it is the package's own
def test_the_encoder_runs_there_alone(gpu_sam: Sam) -> None:
    size_px = gpu_sam.image_size_px
    with Elsewhere() as elsewhere:
        image_1chw = torch.empty(1, 3, size_px, size_px, dtype=gpu_sam.encoder_dtype, device=CUDA)
        features_1chw = gpu_sam._image_encoder(image_1chw)
    assert features_1chw.device.type == "cuda"
    assert elsewhere.found == []


def test_what_would_wait_is_seen() -> None:
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        float(torch.empty(3, device=CUDA).max())
    with FakeTensorMode(), Elsewhere() as elsewhere:
        torch.empty(3, device=CUDA) * torch.ones(())
    assert elsewhere.found
