"""Where things lie: what the features of a compact SAM learn besides answering prompts, from the same masks.

A few prompts per photo tell an encoder that starts from random weights little. So at every cell of its features a
linear layer, which is thrown away after training, is asked how far it is to the sides of the thing in front there,
where in its group (a person, a car) that is and how large the group is, and at SAM's mask resolution where things end.
It is asked for no name of anything.

Suffixes: b photos, h w cells of the features (16 pixels), y x cells of masks (4 pixels), o numbers asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Labels = npt.NDArray[np.int16]
Floats = npt.NDArray[np.float32]

STRIDE = 4
"""Mask cells along the side of a feature cell."""

PLACES = 8
"""Numbers asked for at each feature cell: four of the thing, four of its group."""

PLACE_WEIGHT, EDGE_WEIGHT = 4.0, 1.0
SMOOTH = 0.05  # of the smooth L1 loss; places are in [0, 1]


@dataclass(frozen=True)
class Layout:
    """What is asked for.

    Attributes:
        places_ohw: Square roots of the distances to the thing's left, upper, right and lower side as parts of the
            input's side; then x and y in the group's box and the roots of its width and height, all in [0, 1].
        known_ohw: Where that has an answer, bool: the padding has none, and what is in no group has none of that.
        edges_yx: bool, True beside another thing.
        inside_yx: bool, False on padding.
    """

    places_ohw: Floats
    known_ohw: npt.NDArray[np.bool_]
    edges_yx: npt.NDArray[np.bool_]
    inside_yx: npt.NDArray[np.bool_]


def lay_out(things_yx: Labels, groups_yx: Labels) -> Layout:
    """Return the layout of a photo.

    Args:
        things_yx: Number of the thing in front, -1 on padding.
        groups_yx: Number of its group, 0 for none, -1 on padding.
    """
    size = len(things_yx)
    centres = slice(STRIDE // 2, None, STRIDE)
    x_w = (np.arange(STRIDE // 2, size, STRIDE) + 0.5) / size
    left, top, right, bottom = _sides(things_yx)[:, centres, centres]
    distances = np.stack([x_w - left, x_w[:, None] - top, right - x_w, bottom - x_w[:, None]])
    group_left, group_top, group_right, group_bottom = _sides(groups_yx)[:, centres, centres]
    width, height = group_right - group_left, group_bottom - group_top
    places = np.concatenate(
        [
            np.sqrt(distances.clip(0, 1)),
            [(x_w - group_left) / width, (x_w[:, None] - group_top) / height],
            np.sqrt([width, height]),
        ]
    )
    is_known = things_yx[centres, centres] >= 0
    is_grouped = groups_yx[centres, centres] > 0
    edges = np.zeros(things_yx.shape, dtype=np.bool_)
    edges[:, :-1] |= things_yx[:, :-1] != things_yx[:, 1:]
    edges[:-1] |= things_yx[:-1] != things_yx[1:]
    return Layout(
        places.astype(np.float32), np.stack([is_known] * 4 + [is_grouped] * 4), edges, np.asarray(things_yx >= 0)
    )


def _sides(numbers_yx: Labels) -> npt.NDArray[np.float64]:
    """Return left, upper, right and lower side of the thing at each cell (4, y, x), as parts of the input's side."""
    values, inverse_yx = np.unique(numbers_yx, return_inverse=True)
    rows, columns = np.indices(numbers_yx.shape)
    low, high = np.full((2, len(values)), len(numbers_yx)), np.zeros((2, len(values)), dtype=np.int64)
    for side, at in enumerate((columns, rows)):
        np.minimum.at(low[side], inverse_yx.ravel(), at.ravel())
        np.maximum.at(high[side], inverse_yx.ravel(), at.ravel() + 1)
    return np.concatenate([low, high])[:, inverse_yx.reshape(numbers_yx.shape)] / len(numbers_yx)


class LayoutHead(nn.Module):
    """A linear layer from features to a layout."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, PLACES + STRIDE**2, kernel_size=1)

    def forward(self, features_bchw: Tensor) -> tuple[Tensor, Tensor]:
        """Return places (b, o, h, w) and logits of edges (b, y, x), float32."""
        answers: Tensor = self.layer(features_bchw).float()
        return answers[:, :PLACES], F.pixel_shuffle(answers[:, PLACES:], STRIDE)[:, 0]


def layout_loss(places_bohw: Tensor, edges_byx: Tensor, layouts: Sequence[Layout]) -> Tensor:
    """Return how wrong the answers are, a scalar."""

    def stacked(name: str) -> Tensor:
        return torch.from_numpy(np.stack([vars(layout)[name] for layout in layouts])).to(places_bohw.device)

    known_bohw, inside_byx = stacked("known_ohw"), stacked("inside_yx")
    place = F.smooth_l1_loss(places_bohw, stacked("places_ohw"), beta=SMOOTH, reduction="none")
    edge = F.binary_cross_entropy_with_logits(edges_byx, stacked("edges_yx").float(), reduction="none")
    return PLACE_WEIGHT * (place * known_bohw).sum() / known_bohw.sum().clamp(min=1) + EDGE_WEIGHT * (
        edge * inside_byx
    ).sum() / inside_byx.sum().clamp(min=1)
