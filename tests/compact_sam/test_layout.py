"""What the features of a compact SAM learn besides answering prompts."""

import numpy as np
import pytest
import torch

from persam_ray.compact_sam.layout import (
    ANCHORS,
    KIN_CHANNELS,
    PLACES,
    STRIDE,
    Layout,
    LayoutHead,
    lay_out,
    layout_losses,
)

SIDE = 16  # mask cells, so 4 x 4 feature cells


@pytest.fixture(scope="module")
def layout() -> Layout:
    """Thing 1 fills the left half; thing 2 the rest but a column and two rows of padding; both are in group 5."""
    things = np.full((SIDE, SIDE), 2, dtype=np.int16)
    things[:, :8] = 1
    things[14:] = -1
    things[:, 15:] = -1
    groups = np.where(things == -1, -1, 5).astype(np.int16)
    return lay_out(things, groups, np.random.default_rng(0))


def test_places_are_distances_to_the_sides_of_the_thing_in_front(layout: Layout) -> None:
    # The middle of feature cell (0, 0) is mask cell (2, 2), whose middle is at 2.5 of 16; thing 1 ends at 8 and 14.
    expected = np.sqrt(np.array([2.5, 2.5, 8 - 2.5, 14 - 2.5]) / SIDE)
    np.testing.assert_allclose(layout.places_ohw[:4, 0, 0], expected, rtol=1e-6)
    expected = np.sqrt(np.array([10.5 - 8, 6.5, 15 - 10.5, 14 - 6.5]) / SIDE)  # feature cell (1, 2) lies in thing 2
    np.testing.assert_allclose(layout.places_ohw[:4, 1, 2], expected, rtol=1e-6)


def test_places_in_a_group_are_parts_of_its_box(layout: Layout) -> None:
    np.testing.assert_allclose(layout.places_ohw[4:6, 1, 2], [10.5 / 15, 6.5 / 14], rtol=1e-6)
    np.testing.assert_allclose(layout.places_ohw[6:, 1, 2], np.sqrt([15 / 16, 14 / 16]), rtol=1e-6)


def test_padding_and_things_of_no_group_are_not_asked_about() -> None:
    things = np.zeros((SIDE, SIDE), dtype=np.int16)
    things[:, 8:] = -1
    groups = np.where(things == -1, -1, 0).astype(np.int16)
    layout = lay_out(things, groups, np.random.default_rng(0))
    assert layout.known_ohw[:4].tolist() == [[[True, True, False, False]] * 4] * 4
    assert not layout.known_ohw[4:].any()
    assert layout.inside_yx[:, :8].all()
    assert not layout.inside_yx[:, 8:].any()


def test_edges_lie_beside_another_thing(layout: Layout) -> None:
    edges = layout.edges_yx
    assert edges[:13, 7].all()  # left of thing 2
    assert edges[13, :15].all()  # above the padding
    assert not edges[:13, :7].any()
    assert not edges[:13, 8:14].any()


def test_anchors_ask_for_every_thing_as_often_and_know_their_kin() -> None:
    things = np.full((SIDE, SIDE), 7, dtype=np.int16)
    things[:2, :2] = 3  # 4 cells, as often an anchor as the 188 others
    things[12:] = -1
    groups = np.where(things == -1, -1, np.where(things == 3, 1, 0)).astype(np.int16)
    kinds, small = [], []
    for seed in range(40):
        layout = lay_out(things, groups, np.random.default_rng(seed))
        for (row, column, kind), kin_yx in zip(layout.anchors_a3, layout.kin_ayx, strict=True):
            assert things[row, column] >= 0
            assert np.array_equal(kin_yx, things == things[row, column])  # thing 3 is its whole group
            small.append(things[row, column] == 3)
            kinds.append(kind)
            assert kind == 0 or things[row, column] == 3  # what is in no group is not asked for by it
    assert len(small) == 40 * ANCHORS
    assert np.mean(small) == pytest.approx(0.5, abs=0.06)
    assert np.mean(kinds) == pytest.approx(0.5 * 0.3, abs=0.05)


class Answers(LayoutHead):
    """Answers as it is told."""

    def __init__(self, layout: Layout, off: float = 0.0, sign: float = 1.0) -> None:
        super().__init__(1)
        self.places = torch.from_numpy(layout.places_ohw)[None] + off
        self.edges = sign * 100 * (torch.from_numpy(layout.edges_yx)[None].float() - 0.5)
        self.kin = sign * 100 * (torch.from_numpy(layout.kin_ayx)[None].float() - 0.5)

    def forward(self, *_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.places, self.edges, self.kin


def test_right_answers_cost_nothing_and_wrong_ones_something(layout: Layout) -> None:
    features, position = torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4)
    right = layout_losses(Answers(layout), features, position, [layout])
    assert {name: value.item() for name, value in right.items()} == pytest.approx(
        {"place": 0, "edge": 0, "kin": 0}, abs=1e-6
    )
    wrong = layout_losses(Answers(layout, 0.1, -1.0), features, position, [layout])
    assert wrong["place"].item() == pytest.approx(4 * (0.1 - 0.025))  # smooth L1, beta 0.05
    assert wrong["edge"].item() == pytest.approx(50)
    assert wrong["kin"].item() > 100


def test_an_anchors_kin_is_the_product_of_its_query_and_the_keys_of_all_cells() -> None:
    torch.manual_seed(0)
    head, features, position = LayoutHead(8), torch.randn(2, 8, 4, 4), torch.randn(8, 4, 4)
    anchors = torch.tensor([[[5, 9, 0], [0, 15, 1]], [[3, 3, 1], [2, 2, 0]]])
    places, edges, kin = head(features, position, anchors)
    assert places.shape == (2, PLACES, 4, 4)
    assert edges.shape == (2, SIDE, SIDE)
    assert kin.shape == (2, 2, SIDE, SIDE)
    placed = features + position
    row, column, kind = anchors[0, 1].tolist()
    within = (row % STRIDE) * STRIDE + column % STRIDE
    channels = torch.arange(KIN_CHANNELS) * STRIDE**2
    query = head.queries(placed)[
        0, channels + kind * KIN_CHANNELS * STRIDE**2 + within, row // STRIDE, column // STRIDE
    ]
    key = head.keys(placed)[0, channels + (6 % STRIDE) * STRIDE + 11 % STRIDE, 6 // STRIDE, 11 // STRIDE]
    torch.testing.assert_close(kin[0, 1, 6, 11], (query * key).sum() / KIN_CHANNELS**0.5)
