"""Linear layers and convolutions on a CPU, for inference, their weights laid out beforehand as the product reads them.

torch lays a weight out anew at every call, and in a single thread hands small float32 products to a library that is
slow on AMD's chips: of a core of Zen 5 a convolution of 1 x 1 takes 0.75 ms so, packed 0.35. The operators of oneDNN
that torch's own compiler emits lay it out once. They are not part of torch's public interface: where they are missing
or do not answer, layers stay as they are.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

TRIAL_ROWS = 2

ALLOWED_ERROR = {torch.bfloat16: 0.01, torch.float32: 1e-4}
"""Of a packed layer's results, relative, by type: sums come in another order."""


@torch.inference_mode()
def pack_within(module: nn.Module, x: Tensor) -> nn.Module:
    """Replace the linear layers and convolutions of a module by packed ones, where that can be done.

    Args:
        module: Changed in place.
        x: What it takes, of the size that it will take later: each layer is packed for, and tried on, what it gets.

    Returns:
        The module.
    """
    found: dict[str, nn.Module] = {}
    hooks = []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):

            def pack(layer: Any, inputs: tuple[Tensor, ...], name: str = name) -> None:
                of_its_kind = packed if isinstance(layer, nn.Linear) else packed_convolution
                found[name] = of_its_kind(layer, inputs[0])

            hooks.append(layer.register_forward_pre_hook(pack))
    try:
        module(x)
    finally:
        for hook in hooks:
            hook.remove()
    for name, layer in found.items():
        module.set_submodule(name, layer)
    return module


def packed(linear: nn.Linear, trial: Tensor | None = None) -> nn.Module:
    """Return a layer of the same results, packed where that can be done; the given one is not changed.

    A packed layer passes no gradients on, and cannot be copied, pickled, converted or moved: that comes before.

    Args:
        linear: The layer.
        trial: What it is tried on, by default a few rows.
    """
    if trial is None:
        trial = torch.linspace(-1, 1, TRIAL_ROWS * linear.in_features).view(TRIAL_ROWS, -1).to(linear.weight)
    return _if_it_agrees(_PackedLinear, linear, trial)


def packed_convolution(convolution: nn.Conv2d, trial_bchw: Tensor) -> nn.Module:
    """Return a convolution of the same results, packed where that can be done, as `packed` does.

    Convolutions of groups of channels stay as they are: packed they are slower.

    Args:
        convolution: The layer.
        trial_bchw: What it is tried on, of the size that it is packed for: with others it may be slower.
    """
    if convolution.groups > 1 or convolution.padding_mode != "zeros" or isinstance(convolution.padding, str):
        return convolution
    return _if_it_agrees(lambda layer: _PackedConvolution(layer, trial_bchw.shape), convolution, trial_bchw)


def _if_it_agrees(make: Callable[[Any], nn.Module], layer: nn.Linear | nn.Conv2d, trial: Tensor) -> nn.Module:
    """Return what is made of a layer if it gives the layer's results, else the layer."""
    if layer.weight.device.type != "cpu" or layer.weight.dtype not in ALLOWED_ERROR:
        return layer
    try:
        with torch.inference_mode():
            found, expected = make(layer), layer.forward(trial).float()  # past the hook that may have led here
            error = (found(trial).float() - expected).norm()
    except (AttributeError, RuntimeError, TypeError):
        return layer
    return found if error <= ALLOWED_ERROR[layer.weight.dtype] * expected.norm() else layer


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
