"""BatchNorm that learns from single photos: Batch Renormalization (Ioffe 2017, arXiv:1702.03275), photo by photo.

A compact SAM's backbone is `timm`'s, BatchNorm included, and is trained with one or a few photos per worker. BatchNorm
in training mode would then normalise by other numbers than at inference, and by other numbers in every worker, so that
the mean of two workers' gradients is not the gradient of their common batch. In inference mode from random weights
nothing would hold activations in range. So the modules stay in inference mode, and their input is rewritten: its value
stays (within limits), but its gradient is that of a normalisation by the photo's own mean and variance. What training
computes is then what inference computes, a photo's loss does not depend on its neighbours, and weights still cannot
lower the loss by growing, which is what makes plain running statistics diverge.
"""

from torch import Tensor, native_batch_norm, nn, no_grad, stack

LARGEST_RATIO, LARGEST_SHIFT = 3.0, 5.0
"""Limits of the correction from a photo's statistics to the running ones, r_max and d_max of the paper; beyond them (at
the first steps, mostly) a photo is normalised by its own."""

LEAST_MOMENTUM = 0.02
"""Of the running statistics, which are the plain mean of the first 50 steps and then forget over about as many."""


class PhotoNorms:
    """The BatchNorm2d modules below a module, while it trains; their names and types stay as they are.

    Args:
        module: Gets hooks. They work while `active`; the modules must be in inference mode then.
    """

    def __init__(self, module: nn.Module) -> None:
        self.norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]
        self.active = False
        self._seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        for norm in self.norms:
            norm.register_forward_pre_hook(self._rewritten)

    def hold(self, *, active: bool) -> None:
        """Put the modules into inference mode, and the hooks to work or not."""
        self.active = active
        for norm in self.norms:
            norm.eval()

    def update(self) -> None:
        """Move the running statistics toward what the last forward pass saw; only after its backward pass."""
        for norm, (mean_c, variance_c) in self._seen.items():
            assert isinstance(norm, nn.BatchNorm2d)
            running_mean_c, running_variance_c, steps = _buffers(norm)
            momentum = max(LEAST_MOMENTUM, 1 / (1 + steps.item()))
            running_mean_c.lerp_(mean_c, momentum)  # in place: DistributedDataParallel holds on to buffers
            running_variance_c.lerp_(variance_c, momentum)
            steps += 1
        self._seen.clear()

    def _rewritten(self, norm: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        """Return the input of a BatchNorm, (b, c, h, w), by value, but with the gradient of a normalised one."""
        if not self.active:
            return None
        assert isinstance(norm, nn.BatchNorm2d)
        (x_bchw,) = inputs
        normal_bchw, mean_bc11, spread_bc11 = _normalised(x_bchw, norm.eps)
        with no_grad():
            self._seen[norm] = _pooled(mean_bc11.flatten(1), (spread_bc11**2 - norm.eps).flatten(1))
            running_mean_c, running_variance_c, _ = _buffers(norm)
            centre_c11 = running_mean_c[:, None, None]
            spread_c11 = (running_variance_c + norm.eps).sqrt()[:, None, None]
            ratio_bc11 = (spread_bc11 / spread_c11).clamp(1 / LARGEST_RATIO, LARGEST_RATIO)
            shift_bc11 = ((mean_bc11 - centre_c11) / spread_c11).clamp(-LARGEST_SHIFT, LARGEST_SHIFT)
        return (normal_bchw * (ratio_bc11 * spread_c11) + (shift_bc11 * spread_c11 + centre_c11),)


def _normalised(x_bchw: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return a batch with each photo's channels normalised, and their means and deviations (b, c, 1, 1), detached.

    `instance_norm` is this call, but keeps the statistics to itself: to find them again took 9% of a step on a CPU.
    """
    batch, channels, height, width = x_bchw.shape
    normal_1nhw, mean_n, inverse_n = native_batch_norm(
        x_bchw.reshape(1, batch * channels, height, width), None, None, None, None, True, 0.0, eps
    )
    mean_bc11, inverse_bc11 = (values_n.detach().view(batch, channels, 1, 1) for values_n in (mean_n, inverse_n))
    return normal_1nhw.view_as(x_bchw), mean_bc11, 1 / inverse_bc11


def _pooled(mean_bc: Tensor, variance_bc: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance (c) over all photos of a batch."""
    mean_c, square_c = stack([mean_bc, variance_bc + mean_bc**2]).mean(dim=1)
    return mean_c, (square_c - mean_c**2).clamp(min=0)


def _buffers(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor]:
    mean_c, variance_c, steps = norm.running_mean, norm.running_var, norm.num_batches_tracked
    assert mean_c is not None
    assert variance_c is not None
    assert steps is not None
    return mean_c, variance_c, steps
