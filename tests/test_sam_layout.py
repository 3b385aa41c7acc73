"""What the features of a compact SAM learn besides answering prompts."""

import numpy as np
import pytest
import torch

from persam_ray.demo.sam_layout import Layout, LayoutHead, lay_out, layout_loss

SIDE = 16  # mask cells, so 4 x 4 feature cells


@pytest.fixture(scope="module")
def layout() -> Layout:
    """Thing 1 fills the left half; thing 2 the rest but a column and two rows of padding; both are in group 5."""
    things = np.full((SIDE, SIDE), 2, dtype=np.int16)
    things[:, :8] = 1
    things[14:] = -1
    things[:, 15:] = -1
    groups = np.where(things == -1, -1, 5).astype(np.int16)
    return lay_out(things, groups)


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
    layout = lay_out(things, groups)
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


def test_the_right_answer_costs_nothing_and_a_wrong_one_something(layout: Layout) -> None:
    places = torch.from_numpy(layout.places_ohw)[None]
    edges = (torch.from_numpy(layout.edges_yx)[None].float() - 0.5) * 100
    assert layout_loss(places, edges, [layout]).item() == pytest.approx(0, abs=1e-6)
    assert layout_loss(places + 0.1, edges, [layout]).item() == pytest.approx(4 * (0.1 - 0.025))  # smooth L1, beta 0.05
    assert layout_loss(places, -edges, [layout]).item() == pytest.approx(50)


def test_the_heads_answers_have_a_layouts_shapes(layout: Layout) -> None:
    places, edges = LayoutHead(8)(torch.zeros(2, 8, 4, 4))
    assert places.shape[1:] == layout.places_ohw.shape
    assert edges.shape[1:] == layout.edges_yx.shape
