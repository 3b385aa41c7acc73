"""Linear layers and convolutions for inference on a CPU, with weights laid out in advance as the product reads them.

torch lays a weight out anew at every call, and in a single thread it gives small float32 products to a library that is
slow on AMD's chips: on a core of Zen 5 a 1 x 1 convolution takes 0.75 ms, packed 0.35 ms. The oneDNN operators that
torch's own compiler emits lay a weight out once. They are not part of torch's public interface: where they are missing
or fail, layers stay as they are.
"""

from typing import Any

import torch
from torch import Tensor, nn

TRIAL_ROWS = 2

ALLOWED_ERROR = {torch.bfloat16: 0.01, torch.float32: 1e-4}
"""Largest relative error of a packed layer's results, by type: its sums come in another order."""


@torch.inference_mode()
def pack_within(module: nn.Module, x: Tensor) -> nn.Module:
    """Replace the linear layers and convolutions of a module by packed ones, where that can be done.

    Args:
        module: Changed in place.
        x: What it takes, of the size that it will take later: each layer is packed for, and tried on, what it gets.

    Returns:
        The module.
    """
    if x.device.type != "cpu":
        return module
    found: dict[str, nn.Module] = {}
    hooks = []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):

            def pack(layer: Any, inputs: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                if inputs:  # else given by its name, which no backbone that we know does
                    found[name] = _packed_if_it_agrees(layer, inputs[0], output)

            hooks.append(layer.register_forward_hook(pack))
    try:
        module(x)
    finally:
        for hook in hooks:
            hook.remove()
    for name, layer in found.items():
        module.set_submodule(name, layer)
    return module


@torch.inference_mode()
def packed(linear: nn.Linear) -> nn.Module:
    """Return a layer of the same results, packed where that can be done; the given one is not changed.

    A packed layer passes no gradients on, and cannot be copied, pickled, converted or moved: that comes before.
    """
    trial = torch.linspace(-1, 1, TRIAL_ROWS * linear.in_features).view(TRIAL_ROWS, -1).to(linear.weight)
    return _packed_if_it_agrees(linear, trial, linear(trial))


def _packed_if_it_agrees(layer: nn.Linear | nn.Conv2d, trial: Tensor, expected: Tensor) -> nn.Module:
    """Return a packed layer if it gives what the layer has given, else the layer."""
    if not _can_be_packed(layer):
        return layer
    try:
        with torch.inference_mode():
            found = _PackedConvolution(layer, trial.shape) if isinstance(layer, nn.Conv2d) else _PackedLinear(layer)
            error = (found(trial).float() - expected.float()).norm()
    except (AttributeError, RuntimeError, TypeError):
        return layer
    return found if error <= ALLOWED_ERROR[layer.weight.dtype] * expected.float().norm() else layer


def _can_be_packed(layer: nn.Linear | nn.Conv2d) -> bool:
    """Return whether there are operators for it. Convolutions of groups of channels are slower by them."""
    if layer.weight.device.type != "cpu" or layer.weight.dtype not in ALLOWED_ERROR:
        return False
    if isinstance(layer, nn.Linear):
        return True
    return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


class _PackedLinear(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return y


class _PackedConvolution(nn.Module):
    def __init__(self, convolution: nn.Conv2d, size_bchw: torch.Size) -> None:
        super().__init__()
        self.bias = None if convolution.bias is None else convolution.bias.detach()
        self.how = (convolution.padding, convolution.stride, convolution.dilation, convolution.groups)
        weight = convolution.weight.detach()
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *self.how, size_bchw)

    def forward(self, x_bchw: Tensor) -> Tensor:
        convolve = torch.ops.mkldnn._convolution_pointwise
        y_bchw: Tensor = convolve(x_bchw, self.weight, self.bias, *self.how, "none", [], "")
        return y_bchw
