"""Auxiliary targets for a compact SAM's encoder: it learns from the masks where things lie, besides answering prompts.

A few prompts per photo teach an encoder with random weights little. So linear layers on its features, which are thrown
away after training, predict

- at every feature cell, the distances to the sides of the thing in front there, the cell's place in that thing's group
  (a person, a car), and the size of the group;
- at every mask cell, whether a thing ends there;
- for many mask cells (anchors), which other cells belong to the same thing, or to the same group.

Category names play no part.

Suffixes: b photos, h w cells of the features (16 pixels), y x cells of masks (4 pixels), o numbers asked for,
a anchors, c channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from persam_ray.compact_sam.mask_losses import FOCAL_WEIGHT, dice_loss, focal_loss

Labels = npt.NDArray[np.int16]
Floats = npt.NDArray[np.float32]

STRIDE = 4
"""Mask cells along the side of a feature cell."""

PLACES = 8
"""Numbers asked for at each feature cell: four of the thing, four of its group."""

ANCHORS = 24
"""Anchors of a photo. Each is a mask to learn from, at about a twentieth of the decoder's cost for one."""

GROUP_ANCHORS = 0.3
"""Share of the anchors on grouped things that ask for the group instead of the thing."""

KIN_CHANNELS = 32  # as many as the decoder's masks are products of

PLACE_WEIGHT, EDGE_WEIGHT, KIN_WEIGHT = 4.0, 1.0, 1.0
SMOOTH = 0.05  # of the smooth L1 loss; places are in [0, 1]


@dataclass(frozen=True)
class Layout:
    """The auxiliary targets of one photo.

    Attributes:
        places_ohw: Square roots of the distances to the thing's left, upper, right and lower side as parts of the
            input's side; then x and y in the group's box and the roots of its width and height, all in [0, 1].
        known_ohw: bool, True where `places_ohw` is defined: not on padding, and group values only for grouped things.
        edges_yx: bool, True beside another thing.
        inside_yx: bool, False on padding.
        anchors_a3: Row and column of a mask cell, then 0 to ask for its thing or 1 to ask for its group.
        kin_ayx: bool, True on the cells of the anchor's thing or group.
        things_hw: Number of the thing in front at the middle of each feature cell, -1 on padding.
    """

    places_ohw: Floats
    known_ohw: npt.NDArray[np.bool_]
    edges_yx: npt.NDArray[np.bool_]
    inside_yx: npt.NDArray[np.bool_]
    anchors_a3: npt.NDArray[np.int64]
    kin_ayx: npt.NDArray[np.bool_]
    things_hw: Labels


def lay_out(things_yx: Labels, groups_yx: Labels, random: np.random.Generator) -> Layout:
    """Return the layout of a photo.

    Args:
        things_yx: Number of the thing in front, -1 on padding.
        groups_yx: Number of its group, 0 for none, -1 on padding.
        random: Draws the anchors; each thing gets equally many on average.
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
    anchors_a3 = _anchors(things_yx, groups_yx, random)
    rows_a, columns_a, kinds_a = anchors_a3.T
    numbers = np.stack([things_yx, groups_yx])
    return Layout(
        places.astype(np.float32),
        np.stack([is_known] * 4 + [is_grouped] * 4),
        edges,
        np.asarray(things_yx >= 0),
        anchors_a3,
        numbers[kinds_a] == numbers[kinds_a, rows_a, columns_a][:, None, None],
        things_yx[centres, centres],
    )


def _anchors(things_yx: Labels, groups_yx: Labels, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return anchors (a, 3), none on padding; each thing is equally likely, whatever its size."""
    _, inverse, counts = np.unique(things_yx, return_inverse=True, return_counts=True)
    chance = np.where(things_yx.ravel() >= 0, 1 / counts[inverse.ravel()], 0)
    cells_a = random.choice(things_yx.size, size=ANCHORS, p=chance / chance.sum())
    by_group_a = (groups_yx.ravel()[cells_a] > 0) & (random.random(ANCHORS) < GROUP_ANCHORS)
    return np.stack([*np.divmod(cells_a, things_yx.shape[1]), by_group_a.astype(np.int64)], axis=1)


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
    """Linear layers from features to a layout."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, PLACES + STRIDE**2, kernel_size=1)
        self.keys = nn.Conv2d(channels, KIN_CHANNELS * STRIDE**2, kernel_size=1)
        self.queries = nn.Conv2d(channels, 2 * KIN_CHANNELS * STRIDE**2, kernel_size=1)

    def forward(
        self, features_bchw: Tensor, position_chw: Tensor, anchors_ba3: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return places (b, o, h, w), logits of edges (b, y, x) and of each anchor's kin (b, a, y, x), float32."""
        answers: Tensor = self.layer(features_bchw).float()
        placed_bchw = features_bchw + position_chw  # as in SAM's decoder: where a cell is need not be seen in the photo
        keys_bcyx = F.pixel_shuffle(self.keys(placed_bchw), STRIDE)
        queries_bcyx = F.pixel_shuffle(self.queries(placed_bchw), STRIDE)
        queries_bkcyx = queries_bcyx.view(len(anchors_ba3), 2, KIN_CHANNELS, *queries_bcyx.shape[2:])
        rows_ba, columns_ba, kinds_ba = anchors_ba3.unbind(2)
        photos_b1 = torch.arange(len(anchors_ba3), device=anchors_ba3.device)[:, None]
        queries_bac = queries_bkcyx[photos_b1, kinds_ba, :, rows_ba, columns_ba]
        kin_bayx = torch.einsum("bac,bcyx->bayx", queries_bac, keys_bcyx).float() / KIN_CHANNELS**0.5
        return answers[:, :PLACES], F.pixel_shuffle(answers[:, PLACES:], STRIDE)[:, 0], kin_bayx


def layout_losses(
    head: LayoutHead, features_bchw: Tensor, position_chw: Tensor, layouts: Sequence[Layout]
) -> dict[str, Tensor]:
    """Return the losses by name, scalars: `place`, `edge` and `kin` (focal and dice, as for SAM's masks)."""

    def stacked(name: str) -> Tensor:
        return torch.from_numpy(np.stack([vars(layout)[name] for layout in layouts])).to(features_bchw.device)

    places_bohw, edges_byx, kin_bayx = head(features_bchw, position_chw, stacked("anchors_a3"))
    known_bohw, inside_byx = stacked("known_ohw"), stacked("inside_yx")
    place = F.smooth_l1_loss(places_bohw, stacked("places_ohw"), beta=SMOOTH, reduction="none")
    edge = F.binary_cross_entropy_with_logits(edges_byx, stacked("edges_yx").float(), reduction="none")
    truth_bayx = stacked("kin_ayx").float()
    kin = FOCAL_WEIGHT * focal_loss(kin_bayx, truth_bayx) + dice_loss(kin_bayx, truth_bayx)
    return {
        "place": PLACE_WEIGHT * (place * known_bohw).sum() / known_bohw.sum().clamp(min=1),
        "edge": EDGE_WEIGHT * (edge * inside_byx).sum() / inside_byx.sum().clamp(min=1),
        "kin": KIN_WEIGHT * kin.mean(),
    }
