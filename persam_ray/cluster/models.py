"""Models for the actors: read once into the object store, which all actors share.

    sam = load_checkpoint(uri)
    made = make_targets(sam, references, options, method, plan)     made once: they tell SAM what to look for
    actors = sam_actors(sam, {method: made}, options)               for labeling.label_images

The driver holds object references and facts, but no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import ray

from persam_ray.cluster.labeling import ModelActors
from persam_ray.cluster.plan import WorkerPlan, on_this_node
from persam_ray.data.checkpoints import read_sam
from persam_ray.images import fitted_size_hw, resized_size_hw
from persam_ray.methods.registry import MethodName
from persam_ray.stages import targets
from persam_ray.stages.detect import DetectOptions, SegmentWithMaskRcnn
from persam_ray.stages.feature_cache import FeatureCache
from persam_ray.stages.segment import SegmentWithSam
from persam_ray.stages.targets import SegmentOptions
from persam_ray.types import Guidance

if TYPE_CHECKING:
    from persam_ray.compute.precision import Precision
    from persam_ray.types import Checkpoint, Reference, Target


IMAGES_AT_ONCE = 8
"""Images in one pass of the encoder on a GPU, unless the user states another number or the memory holds fewer."""

# --- SAM -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadedSam:
    """A SAM checkpoint in the object store.

    Attributes:
        uri: Path or URL of the file.
        checkpoint: Object reference of the checkpoint.
        fingerprint: `sha256:...` of the file.
        image_size_px: Side of the model's input in pixels.
    """

    uri: str
    checkpoint: ray.ObjectRef[Checkpoint]
    fingerprint: str
    image_size_px: int


def load_checkpoint(uri: str) -> LoadedSam:
    """Read a SAM checkpoint into the object store, where all actors share its memory.

    A task reads it on this node, because `weights.locate` has put it here; the driver itself does not. Tensors that do
    not fit their layout are found when the targets are made.

    Raises:
        CheckpointError: The file is not a checkpoint, or its layout is unknown.
        StorageError: The file cannot be read.
    """
    checkpoint, facts = _read_once(read_sam, uri)
    return LoadedSam(uri, checkpoint, *facts)


def _read_once(read: Callable[..., Any], uri: str) -> tuple[ray.ObjectRef[Any], Any]:
    """Read a file in a task; return a reference to its content, which stays in the object store, and its facts."""
    strategy = on_this_node(soft=True)
    task = ray.remote(read).options(num_cpus=0, num_returns=2, scheduling_strategy=strategy)
    content, facts = cast("Any", task.remote(uri))  # two references, as asked for
    return content, ray.get(facts)


def sam_options(
    plan: WorkerPlan,
    precision: Precision,
    guidance: Guidance,
    batch_size: int | None = None,
    cache: FeatureCache | None = None,
) -> SegmentOptions:
    """Return how to segment: the user's choices, completed by the hardware of the cluster."""
    on_gpu = plan.device == "cuda"
    at_most = batch_size or (IMAGES_AT_ONCE if on_gpu else 1)
    share = cache.share(plan.actors) if cache else None
    fits_memory = on_gpu and batch_size is None
    return SegmentOptions(plan.device, plan.threads, at_most, precision, guidance, share, fits_memory)


@dataclass(frozen=True)
class MadeTargets:
    """A method's targets in the object store; another process may still be making them.

    Attributes:
        targets: Object reference of the targets, for the actors.
        seconds: Object reference of the seconds that making them took once the model was loaded. For PerSAM-F this is
            its training.
    """

    targets: ray.ObjectRef[list[Target]]
    seconds: ray.ObjectRef[float]

    def wait(self) -> float:
        """Wait for the targets; return the seconds that making them took, or raise the error if it failed."""
        spent_s: float = ray.get(self.seconds)
        return spent_s


def make_targets(
    sam: LoadedSam,
    references: Mapping[str, Sequence[Reference]],
    options: SegmentOptions,
    method: MethodName,
    plan: WorkerPlan,
) -> MadeTargets:
    """Make a method's targets on one worker with the actors' hardware.

    On CPUs the actors start meanwhile: they load their libraries and then wait for the targets. On GPUs the targets are
    made first, because the actors take all GPUs once they have started.
    """
    make = ray.remote(targets.make_targets).options(num_cpus=plan.actor_cpus, num_gpus=plan.actor_gpus, num_returns=2)
    made_targets, seconds = cast(
        "Any", make.remote(sam.checkpoint, sam.uri, references, options, method)
    )  # two references
    made = MadeTargets(made_targets, seconds)
    if plan.actor_gpus:
        made.wait()
    return made


def sam_actors(sam: LoadedSam, made: Mapping[MethodName, MadeTargets], options: SegmentOptions) -> ModelActors:
    """Return what is needed to start actors that encode each image once for all methods in `made`."""
    load = partial(_fetch_sam, sam.checkpoint, {method: own.targets for method, own in made.items()})
    frame_hw = partial(resized_size_hw, image_size_px=sam.image_size_px)

    def check() -> None:
        seconds = [own.seconds for own in made.values()]
        ended, _ = ray.wait(seconds, num_returns=len(seconds), timeout=0)  # targets still being made made no actor fail
        ray.get(ended)

    return ModelActors(SegmentWithSam, load, options, frame_hw, options.batch_size, check)


def _fetch_sam(
    checkpoint: ray.ObjectRef[Checkpoint], targets: Mapping[MethodName, ray.ObjectRef[list[Target]]]
) -> tuple[Checkpoint, dict[MethodName, list[Target]]]:
    return ray.get(checkpoint), {method: ray.get(reference) for method, reference in targets.items()}


# --- Mask R-CNN ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadedDetector:
    """A trained Mask R-CNN in the object store.

    Attributes:
        checkpoint: Object reference of the checkpoint.
        fingerprint: `sha256:...` of the file.
        categories: Categories that it finds.
        frame_px: Shorter and longer side that photos are resized to, in pixels.
    """

    checkpoint: ray.ObjectRef[Checkpoint]
    fingerprint: str
    categories: tuple[str, ...]
    frame_px: tuple[int, int]


def load_detector(uri: str) -> LoadedDetector:
    """Read a trained Mask R-CNN into the object store.

    Raises:
        CheckpointError: The file is not a Mask R-CNN of this package, or is damaged.
        StorageError: The file cannot be read.
    """
    checkpoint, facts = _read_once(_read_detector, uri)
    return LoadedDetector(checkpoint, *facts)


def _read_detector(uri: str) -> tuple[Checkpoint, tuple[str, tuple[str, ...], tuple[int, int]]]:
    from persam_ray.data.checkpoints import read_checkpoint
    from persam_ray.errors import CheckpointError
    from persam_ray.mask_rcnn.model import from_checkpoint

    checkpoint = read_checkpoint(uri)
    try:
        spec = from_checkpoint(checkpoint.tensors, checkpoint.metadata).spec
    except ValueError as error:
        raise CheckpointError(f"{uri}: {error}") from error
    return checkpoint, (checkpoint.fingerprint, spec.categories, spec.frame_px)


def keep_checkpoint(uri: str | None) -> Callable[[], Checkpoint | None]:
    """Read any checkpoint into the object store, and return a function that fetches it in a worker.

    If `uri` is None, the function returns None.

    Raises:
        CheckpointError: The file is not a checkpoint.
        StorageError: The file cannot be read.
    """
    if uri is None:
        return _nothing
    reference, _ = _read_once(_read_any, uri)
    return partial(_fetch, reference)


def _read_any(uri: str) -> tuple[Checkpoint, str]:
    from persam_ray.data.checkpoints import read_checkpoint

    checkpoint = read_checkpoint(uri)
    return checkpoint, checkpoint.fingerprint


def _nothing() -> None:
    return None


def _fetch(reference: ray.ObjectRef[Checkpoint]) -> Checkpoint:
    return ray.get(reference)


def mask_rcnn_actors(detector: LoadedDetector, options: DetectOptions) -> ModelActors:
    """Return what is needed to start actors that find instances with a trained Mask R-CNN."""
    shorter_px, longer_px = detector.frame_px
    frame_hw = partial(fitted_size_hw, shorter_px=shorter_px, longer_px=longer_px)
    return ModelActors(SegmentWithMaskRcnn, partial(_fetch, detector.checkpoint), options, frame_hw)
