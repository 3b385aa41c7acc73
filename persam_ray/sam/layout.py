"""Which SAM a checkpoint holds, and the size of its input: read from names and shapes, before any torch is loaded."""

from persam_ray.errors import CheckpointError
from persam_ray.types import Checkpoint

COMPACT_FORMAT = "persam-ray/compact-sam/1"
MOBILE_SAM_IMAGE_SIZE_PX = 1024
LARGEST_PX = 4096  # four times SAM's; photos are resized to what a file says, before its tensors are looked at


def detect_layout(checkpoint: Checkpoint) -> str:
    """Return `vit`, `mobile` or `compact` by the names of the image encoder's tensors.

    Raises:
        CheckpointError: None of them.
    """
    tensors = checkpoint.tensors
    if "prompt_encoder.no_mask_embed.weight" in tensors and "mask_decoder.iou_token.weight" in tensors:
        if "image_encoder.patch_embed.proj.weight" in tensors:
            return "vit"
        if "image_encoder.patch_embed.seq.0.c.weight" in tensors:
            return "mobile"
        if checkpoint.metadata.get("format") == COMPACT_FORMAT:
            return "compact"
    first = ", ".join(sorted(tensors)[:3]) or "no tensor at all"
    raise CheckpointError(
        "unknown checkpoint layout: expected SAM (ViT), MobileSAM or compact SAM, with image_encoder.*, "
        f"prompt_encoder.* and mask_decoder.* tensors, but found {len(tensors)} tensors ({first}, ...)"
    )


def image_size_px(checkpoint: Checkpoint) -> int:
    """Return the side of the square input.

    Raises:
        CheckpointError: Unknown layout, or what would tell is missing or makes no sense.
    """
    layout = detect_layout(checkpoint)
    if layout == "vit":
        return _vit_size_px(checkpoint)
    return MOBILE_SAM_IMAGE_SIZE_PX if layout == "mobile" else _compact_size_px(checkpoint)


def _vit_size_px(checkpoint: Checkpoint) -> int:
    try:
        _, rows, columns, _ = checkpoint.tensors["image_encoder.pos_embed"].shape
        _, _, patch_px, _ = checkpoint.tensors["image_encoder.patch_embed.proj.weight"].shape
    except KeyError as error:
        raise CheckpointError(f"the checkpoint has no tensor {error}, which SAM (vit) needs") from error
    except ValueError as error:
        raise CheckpointError(f"the checkpoint's tensors have shapes that no SAM (vit) has: {error}") from error
    if rows != columns or not 0 < rows * patch_px <= LARGEST_PX:
        raise CheckpointError(
            f"the checkpoint's image_encoder.pos_embed is for {rows} x {columns} patches of {patch_px} pixels, and no "
            f"square of up to {LARGEST_PX}"
        )
    return int(rows * patch_px)


def _compact_size_px(checkpoint: Checkpoint) -> int:
    size = checkpoint.metadata.get("image_size", "")
    if not (size.isdecimal() and len(size) < 6 and 0 < int(size) <= LARGEST_PX) or int(size) % 32:
        raise CheckpointError(
            "a compact SAM names its image size (a multiple of 32, up to "
            f"{LARGEST_PX}) in the metadata, not {size[:20]!r}"
        )
    return int(size)
