"""Masks: COCO run-length encoding, boxes, areas, components.

A mask is (h, w) bool. The encoding is pycocotools' compressed counts string; its size travels beside it.
"""

import math

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from persam_ray.types import BoolArray


def encode_rle(mask_hw: BoolArray) -> str:
    """Return the COCO compressed counts string of a mask."""
    counts: bytes = coco_mask.encode(np.asfortranarray(mask_hw, dtype=np.uint8))["counts"]
    return counts.decode("ascii")


def decode_rle(rle: str, size_hw: tuple[int, int]) -> BoolArray:
    """Return the (h, w) bool mask of a compressed counts string.

    Raises:
        ValueError: The string does not describe a mask of that size.
    """
    check_rle(rle, size_hw)
    return np.asarray(coco_mask.decode(rle_object(rle, size_hw)), dtype=np.bool_)


def rle_object(rle: str, size_hw: tuple[int, int]) -> dict[str, object]:
    """Return the dictionary form that pycocotools works on."""
    return {"size": list(size_hw), "counts": rle.encode("ascii")}


def rle_runs(rle: str) -> list[int]:
    """Return the run lengths of a compressed counts string, zeros first, in column-major order.

    Each number is a little-endian chain of 6-bit groups (5 bits of value, 1 continues), offset by 48; from the
    third on, a difference to the number two before (pycocotools' `rleToString`).

    Raises:
        ValueError: The string is not of that form, or a number has more than 6 groups: pycocotools shifts 32-bit
            integers and would read another number than this function.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for byte in rle.encode("ascii"):
        group = byte - 48
        if not 0 <= group < 64:
            raise ValueError(f"the character {chr(byte)!r} does not occur in COCO run-length strings")
        if shift == 30:
            raise ValueError("a number of the COCO run-length string is longer than 30 bits")
        value |= (group & 0x1F) << shift
        shift += 5
        if group & 0x20:
            continue
        if group & 0x10:
            value |= -1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("the COCO run-length string ends in the middle of a number")
    return runs


def check_rle(rle: str, size_hw: tuple[int, int]) -> None:
    """Raise ValueError unless the string describes a mask of (h, w) exactly.

    pycocotools itself does not look: it writes past its buffer, leaves pixels unset, or (its intersections) stops at
    a run of length 0.
    """
    runs = rle_runs(rle)
    if 0 in runs[1:-1]:
        raise ValueError("the COCO run-length string has a run of length 0 inside")
    if any(run < 0 for run in runs) or sum(runs) != size_hw[0] * size_hw[1]:
        raise ValueError(
            f"the run-length string covers {sum(runs)} pixels, but the mask is {size_hw[1]} x {size_hw[0]} "
            f"= {size_hw[0] * size_hw[1]}"
        )


def tight_box(mask_hw: BoolArray) -> tuple[float, float, float, float]:
    """Return x_min, y_min, x_max, y_max of the True pixels, right and lower edge exclusive.

    Raises:
        ValueError: The mask is empty.
    """
    columns = np.flatnonzero(mask_hw.any(axis=0))
    rows = np.flatnonzero(mask_hw.any(axis=1))
    if len(columns) == 0:
        raise ValueError("an empty mask has no box")
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def drop_small_components(mask_hw: BoolArray, min_area_fraction: float) -> BoolArray:
    """Return the mask without its 8-connected components under a fraction of the image's area.

    Args:
        mask_hw: The mask.
        min_area_fraction: In [0, 1]; a component stays if its pixels are at least this part of all pixels.
    """
    if min_area_fraction == 0:
        return mask_hw
    _, labels_hw, stats, _ = cv2.connectedComponentsWithStats(mask_hw.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= min_area_fraction * mask_hw.size
    keep[0] = False  # the background
    return np.asarray(keep[labels_hw])


def components(mask_hw: BoolArray) -> list[BoolArray]:
    """Return the 8-connected components of a mask, each as a mask of the same size, in scan order."""
    count, labels_hw = cv2.connectedComponents(mask_hw.astype(np.uint8), connectivity=8)
    return [np.asarray(labels_hw == index) for index in range(1, count)]


def encode_components(mask_hw: BoolArray) -> list[str]:
    """Return the 8-connected components as compressed counts strings of the mask's size, largest first.

    All runs are found in one pass over the image: a mask of a thousand specks costs little more than one of two.
    """
    _, labels_hw = cv2.connectedComponents(mask_hw.astype(np.uint8), connectivity=8)
    labels = labels_hw.T.ravel()  # column-major, as the runs of COCO are
    starts = np.concatenate([[0], np.flatnonzero(np.diff(labels)) + 1])
    ends = np.append(starts[1:], labels.size)
    order = np.argsort(labels[starts], kind="stable")
    pieces = np.split(order, np.flatnonzero(np.diff(labels[starts][order])) + 1)
    objects = [piece for piece in pieces if labels[starts[piece[0]]] != 0]
    objects.sort(key=lambda piece: -int((ends[piece] - starts[piece]).sum()))
    return [_encode_runs(starts[piece], ends[piece], mask_hw) for piece in objects]


def _encode_runs(starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], mask_hw: BoolArray) -> str:
    edges = np.stack([starts, ends], axis=1).ravel()
    counts = np.diff(edges, prepend=0, append=mask_hw.size)
    counts = counts[: len(counts) - (counts[-1] == 0)]
    height, width = mask_hw.shape
    encoded: bytes = coco_mask.frPyObjects({"counts": counts.tolist(), "size": [height, width]}, height, width)[
        "counts"
    ]
    return encoded.decode("ascii")


def boundary(mask_hw: BoolArray, dilation_ratio: float = 0.02) -> BoolArray:
    """Return the pixels of a mask that lie near its contour; the image's edge counts as contour.

    Near is within `dilation_ratio` of the image's diagonal, at least one pixel, in rows and columns (Chebyshev
    distance), as in Boundary IoU (Cheng et al., CVPR 2021) and its published code.
    """
    height, width = mask_hw.shape
    distance_px = max(1, round(dilation_ratio * math.hypot(height, width)))
    padded = cv2.copyMakeBorder(mask_hw.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=[0])
    inner_hw = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance_px)[1:-1, 1:-1]
    return np.asarray(mask_hw & (inner_hw == 0))
