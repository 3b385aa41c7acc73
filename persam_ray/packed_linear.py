"""Linear layers in bfloat16 on a CPU, their weights laid out beforehand as the matrix product reads them.

torch lays a weight out anew at every call, and writes a layer's result to memory before GELU reads it. The operators
of oneDNN that torch's own compiler emits do the first once and the second on the way out of the product. They are not
part of torch's public interface: where they are missing or do not answer, layers stay as they are.
"""

import torch
from torch import Tensor, nn

TRIAL_ROWS = 2


def packed(linear: nn.Linear, *, gelu: bool = False) -> nn.Module:
    """Return a layer of the same results (exact GELU behind it, if asked for), packed where that can be done.

    Args:
        linear: Frozen; its weight is not kept if it is packed.
        gelu: Whether GELU follows.
    """
    plain = nn.Sequential(linear, nn.GELU()) if gelu else linear
    weight = linear.weight
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
        return plain
    try:
        with torch.inference_mode():
            layer = _PackedLinear(linear, gelu=gelu)
            trial = weight.new_ones(TRIAL_ROWS, linear.in_features)
            torch.testing.assert_close(layer(trial), plain(trial), rtol=0.02, atol=0.02)
    except (AssertionError, AttributeError, RuntimeError, TypeError):
        return plain
    return layer


class _PackedLinear(nn.Module):
    def __init__(self, linear: nn.Linear, *, gelu: bool) -> None:
        super().__init__()
        self.bias, self.gelu = linear.bias, gelu
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        name, variant = ("gelu", "none") if self.gelu else ("none", "")
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, name, [], variant)
        return y
