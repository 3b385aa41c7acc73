"""Linear layers in bfloat16 on a CPU, for inference, their weights laid out beforehand as the product reads them.

torch lays a weight out anew at every call. The operators of oneDNN that torch's own compiler emits do it once. They are
not part of torch's public interface: where they are missing or do not answer, layers stay as they are.
"""

import torch
from torch import Tensor, nn

TRIAL_ROWS = 2


def packed(linear: nn.Linear) -> nn.Module:
    """Return a layer of the same results, packed where that can be done; the given one is not changed.

    A packed layer passes no gradients on, and cannot be copied, pickled, converted or moved: that comes before.
    """
    weight = linear.weight
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
        return linear
    try:
        with torch.inference_mode():
            layer = _PackedLinear(linear)
            trial = torch.linspace(-1, 1, TRIAL_ROWS * linear.in_features).view(TRIAL_ROWS, -1).to(weight)
            torch.testing.assert_close(layer(trial), linear(trial), rtol=0.02, atol=0.02)
    except (AssertionError, AttributeError, RuntimeError, TypeError):
        return linear
    return layer


class _PackedLinear(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return y
