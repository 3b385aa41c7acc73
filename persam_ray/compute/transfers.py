"""Between host and device without waiting: from a GPU's view, copies queue with the work before and behind them.

A plain copy from or to pageable memory holds the driver until all queued work is done, and the GPU idles while the next
is being queued. Page-locked memory is copied by the GPU itself. On a CPU nothing is copied that need not be.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from persam_ray.types import ByteArray


def upload(pixels: ByteArray, device: torch.device) -> Tensor:
    """Return a copy of an array on a device; of its memory nothing is needed any more."""
    if device.type != "cuda":
        return torch.from_numpy(pixels.copy()).to(device)
    locked = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)
    locked.numpy()[...] = pixels
    return locked.to(device, non_blocking=True)


class Download:
    """Tensors on their way to the host, behind the work that is queued for them.

    Args:
        tensors: On one device.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._event: torch.cuda.Event | None = None
        if tensors[0].device.type == "cuda":
            stream = torch.cuda.current_stream(tensors[0].device)
            locked = [torch.empty_like(tensor, device="cpu", pin_memory=True) for tensor in tensors]
            tensors = [to.copy_(tensor, non_blocking=True) for to, tensor in zip(locked, tensors, strict=True)]
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
            self._event.record(stream)
        self._tensors = tensors

    def wait(self) -> Sequence[Tensor]:
        """Return the tensors, on the host, and let go of them: of large photos they are large. To be called once."""
        if self._event is not None:
            self._event.synchronize()
        tensors, self._tensors = self._tensors, ()
        return [tensor.cpu() for tensor in tensors]
