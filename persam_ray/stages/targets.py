"""SAM on a worker, and the targets that a method learns there."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from persam_ray.errors import CheckpointError
from persam_ray.methods.registry import MethodName, make_method
from persam_ray.stages.feature_cache import FeatureCache
from persam_ray.types import Guidance

if TYPE_CHECKING:
    from persam_ray.compute.precision import Precision
    from persam_ray.sam.model import Sam
    from persam_ray.types import Checkpoint, Reference, Target


@dataclass(frozen=True)
class SegmentOptions:
    """How to segment by SAM.

    Attributes:
        device: `cuda` or `cpu`.
        threads: Torch's threads on the CPU.
        batch_size: Most images in one pass of the encoder. It is 1 on a CPU: a larger batch gains nothing there, and
            with 1 an image's result does not depend on its neighbours, to the last bit.
        precision: Type that SAM computes in.
        guidance: How PerSAM's attention map is placed on photos that are not square.
        cache: Where encoded photos are kept, and how much an actor may add; None for no cache.
        fits_memory: Let each actor take fewer images at once if its GPU's free memory does not hold `batch_size`.
    """

    device: str
    threads: int
    batch_size: int
    precision: Precision
    guidance: Guidance
    cache: FeatureCache | None = None
    fits_memory: bool = False


def load_sam(checkpoint: Checkpoint, options: SegmentOptions) -> Sam:
    """Build SAM on the device, in the precision and with the threads that the options state."""
    import torch

    from persam_ray.sam.model import Sam

    torch.set_num_threads(options.threads)
    return Sam(checkpoint, options.device, options.precision)


def make_targets(
    checkpoint: Checkpoint,
    uri: str,
    references: Mapping[str, Sequence[Reference]],
    options: SegmentOptions,
    name: MethodName,
) -> tuple[list[Target], float]:
    """Make a method's targets; return them on the CPU, and the seconds that making them took once SAM was loaded.

    Args:
        checkpoint: SAM's weights.
        uri: URI of the checkpoint, for messages.
        references: References by category.
        options: How to segment.
        name: Name of the method.

    Raises:
        CheckpointError: The tensors do not fit their layout.
    """
    from persam_ray.methods.references import ReferenceEncoder

    method = make_method(name, options.guidance)
    precision = "float32" if method.fits else options.precision
    try:  # done once in a run, so with all CPUs that this process may use
        sam = load_sam(checkpoint, replace(options, precision=precision, threads=len(os.sched_getaffinity(0))))
    except CheckpointError as error:
        raise CheckpointError(f"{uri}: {error}") from error
    started_s = time.perf_counter()
    encode = ReferenceEncoder(sam, [example for examples in references.values() for example in examples])
    targets = [method.learn(sam, list(map(encode, examples))).to("cpu") for examples in references.values()]
    return targets, time.perf_counter() - started_s
