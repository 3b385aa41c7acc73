"""TODO stages.targets."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from persam_ray.errors import CheckpointError
from persam_ray.stages.feature_cache import FeatureCache

if TYPE_CHECKING:
    import torch

    from persam_ray.compute.precision import Precision
    from persam_ray.methods.persam import Guidance
    from persam_ray.sam.model import Sam
    from persam_ray.types import Checkpoint, Reference, Target


@dataclass(frozen=True)
class SegmentOptions:
    """How to segment by SAM.

    Attributes:
        device: `cuda` or `cpu`.
        threads: Of torch on the CPU.
        batch_size: Images in one pass of the encoder, at most. 1 on a CPU: a larger batch gains nothing there, and
            with 1 an image's result does not depend on its neighbours, to the last bit.
        precision: Of the encoder.
        guidance: Of PerSAM's attention.
        cache: Where encoded photos are kept, and how much an actor may add; None for nowhere.
        fits_memory: Take fewer images at once where a GPU's free memory does not hold as many, each actor as it finds.
    """

    device: str
    threads: int
    batch_size: int
    precision: Precision
    guidance: Guidance
    cache: FeatureCache | None = None
    fits_memory: bool = False


def load_sam(checkpoint: Checkpoint, options: SegmentOptions) -> Sam:
    """Build SAM on the options' device with the options' threads."""
    import torch

    from persam_ray.sam.model import Sam

    torch.set_num_threads(options.threads)
    return Sam(checkpoint, options.device, options.precision)


def on_device(target: Target, device: torch.device | str) -> Target:
    """Return a target whose tensors are on a device."""
    weights = target.mask_weights_3
    return replace(
        target,
        feature_c=target.feature_c.to(device),
        embedding_c=target.embedding_c.to(device),
        mask_weights_3=None if weights is None else weights.to(device),
    )


def make_targets(
    checkpoint: Checkpoint,
    uri: str,
    references: Mapping[str, Sequence[Reference]],
    options: SegmentOptions,
    method: str,
) -> tuple[list[Target], float]:
    """Make a method's targets, on the CPU; beside them, the seconds that it took, SAM being loaded.

    Args:
        checkpoint: Of SAM.
        uri: Where it comes from, for messages.
        references: By category.
        options: How to segment.
        method: `persam` or `persam_f`.

    Raises:
        CheckpointError: The tensors do not fit their layout.
    """
    from persam_ray.methods.persam import make_target
    from persam_ray.methods.persam_f import make_target_f
    from persam_ray.methods.target import ReferenceEncoder

    # Once for the run, so by all of this machine. A fit at full precision: a rounded point on the reference would move
    # the mask weights, and with them every mask.
    precision = "float32" if method == "persam_f" else options.precision
    try:
        sam = load_sam(checkpoint, replace(options, precision=precision, threads=len(os.sched_getaffinity(0))))
    except CheckpointError as error:
        raise CheckpointError(f"{uri}: {error}") from error
    started_s = time.perf_counter()
    make = {"persam": make_target, "persam_f": make_target_f}[method]
    encode = ReferenceEncoder(sam, [example for examples in references.values() for example in examples])
    targets = [on_device(make(sam, examples, encode), "cpu") for examples in references.values()]
    return targets, time.perf_counter() - started_s
