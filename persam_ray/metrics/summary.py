"""Summaries of evaluated images, without masks: plain arrays that merge, and travel as bytes.

40 bytes for each predicted instance, 56 for each image and category that occurs in it, 8 for each image: a million
predictions on a hundred thousand images are about 50 MB.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


IntArray = npt.NDArray[np.int64]


Rows = npt.NDArray[np.void]


AREA_RANGES_PX = np.array([[0, 1e5**2], [0, 32**2], [32**2, 96**2], [96**2, 1e5**2]])
"""COCO's all, small, medium and large, both ends inclusive: truth by its annotated area, detections by their mask's."""


IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)


DETECTION = np.dtype(
    [
        ("image", np.uint64),  # image_key
        ("score", np.float64),
        ("matched", np.uint16, (4,)),  # by area range; bit t: matched at IoU threshold t
        ("ignored", np.uint16, (4,)),  # the same; set where it counts neither as right nor as wrong
        ("category", np.uint16),  # position in ShardSummary.categories
        ("rank", np.uint8),  # place by falling score among the image's detections of this category; 255: or later
    ],
    align=True,
)


TALLY = np.dtype(
    [
        ("image", np.uint64),
        ("intersection", np.int64),  # pixels
        ("union", np.int64),
        ("truth_px", np.int64),
        ("boundary_iou", np.float64),  # NaN where truth_px is 0
        ("tp", np.int32),
        ("fp", np.int32),
        ("fn", np.int32),
        ("category", np.uint16),
    ],
    align=True,
)


@dataclass(frozen=True, eq=False)
class ShardSummary:
    """A summary of evaluated images, without masks: plain arrays, cheap to send.

    Attributes:
        categories: The categories evaluated.
        score_threshold: In [0, 1]; the tallies count predictions of at least this score.
        images: uint64 image_key of every image evaluated, those without any instance included.
        truths_ka: Number of truth instances that count, by category and area range.
        detections: DETECTION rows in any order.
        tallies: TALLY rows in any order, one for each image and category with truth or predictions.
    """

    categories: tuple[str, ...]
    score_threshold: float
    images: npt.NDArray[np.uint64]
    truths_ka: IntArray
    detections: Rows
    tallies: Rows


def merge(summaries: Iterable[ShardSummary]) -> ShardSummary:
    """Join the summaries of disjoint shards; merging in any order or grouping gives the same metrics.

    Raises:
        ValueError: There is none, they were made with different categories or thresholds, or an image is in two.
    """
    parts = list(summaries)
    if not parts:
        raise ValueError("there is no evaluated shard to merge")
    made_with = {(part.categories, part.score_threshold) for part in parts}
    if len(made_with) > 1:
        raise ValueError(f"shards were evaluated with different categories or score thresholds: {sorted(made_with)}")
    images = np.concatenate([part.images for part in parts])
    if repeated := len(images) - len(np.unique(images)):
        raise ValueError(f"{repeated} of {len(images)} images occur twice: an image must be in one shard only")
    return ShardSummary(
        parts[0].categories,
        parts[0].score_threshold,
        images,
        np.sum([part.truths_ka for part in parts], axis=0),
        np.concatenate([part.detections for part in parts]),
        np.concatenate([part.tallies for part in parts]),
    )


def pack(summary: ShardSummary) -> bytes:
    """Return a summary as bytes, for a binary column or a file: NumPy's format, which runs no code when it is read."""
    buffer = io.BytesIO()
    fields = vars(summary) | {"categories": np.array(summary.categories, dtype=np.str_)}
    np.savez_compressed(buffer, allow_pickle=False, **fields)
    return buffer.getvalue()


def unpack(packed: bytes) -> ShardSummary:
    """Return the summary that was packed."""
    with np.load(io.BytesIO(packed), allow_pickle=False) as fields:
        categories, threshold = tuple(fields["categories"].tolist()), float(fields["score_threshold"])
        rows = fields["detections"].astype(DETECTION), fields["tallies"].astype(TALLY)  # a file knows of no padding
        return ShardSummary(categories, threshold, fields["images"], fields["truths_ka"], *rows)


def merged(packed: Iterable[bytes]) -> ShardSummary:
    """Merge the summaries of all shards."""
    return merge(unpack(part) for part in packed)
