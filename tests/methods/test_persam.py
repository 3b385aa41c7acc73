"""PerSAM's steps on inputs that the official code does not survive, or treats oddly."""

import numpy as np
import pytest
import torch

from persam_ray.errors import BadReferenceError
from persam_ray.images import resize_longest_side
from persam_ray.methods import persam, references
from persam_ray.methods.persam import PersamTarget, Prior
from persam_ray.methods.references import encode_references
from persam_ray.sam.model import Sam
from persam_ray.types import Frame, Reference, as_binary_mask
from tests.conftest import disc, scene


def target_of(sam: Sam, *references: Reference) -> PersamTarget:
    return persam.make_target(sam, encode_references(sam, references))


@pytest.mark.parametrize(
    "mask",
    [
        disc(90, 120),
        disc(90, 120).astype(np.uint8),
        disc(90, 120).astype(np.uint8) * 255,
        disc(90, 120).astype(np.float32) * 0.1,
        np.repeat(disc(90, 120)[:, :, None], 3, axis=2).astype(np.uint16) * 7,
    ],
    ids=["bool", "0/1", "0/255", "float", "three channels"],
)
def test_a_mask_of_any_type_and_range_gives_the_same_target(
    small_sam: Sam, disc_reference: Reference, mask: np.ndarray
) -> None:
    given = Reference("disc", disc_reference.image_hw3, as_binary_mask(mask))
    torch.testing.assert_close(
        target_of(small_sam, given).embedding_c, target_of(small_sam, disc_reference).embedding_c
    )


def test_a_target_smaller_than_a_cell_uses_the_cell_that_it_covers_most(small_sam: Sam) -> None:
    # 120 pixels become 128, on a grid of 8 cells: a cell is 15 photo pixels.
    mask = np.zeros((90, 120), dtype=bool)
    mask[44:47, 73:77] = True  # rows 44 in cell 2, 45 and 46 in cell 3; columns 73, 74 in cell 4 and 75, 76 in cell 5
    mask[45, 72] = True  # one more in (3, 4)
    cells = references.target_cells(small_sam, mask)
    assert cells.nonzero().tolist() == [[3, 4]]


def test_one_pixel_of_a_large_photo_is_still_a_target(small_sam: Sam) -> None:
    mask = np.zeros((900, 1200), dtype=bool)
    mask[899, 1199] = True
    assert references.target_cells(small_sam, mask).nonzero().tolist() == [[5, 7]]


def test_cells_of_several_references_are_pooled(small_sam: Sam) -> None:
    first = Reference("disc", scene(90, 120, seed=1), disc(90, 120))
    second = Reference("disc", scene(128, 128, seed=2), disc(128, 128))
    cells = [references.target_features(small_sam, one) for one in encode_references(small_sam, [first, second])]
    assert len(cells[0]) != len(cells[1])  # so that pooling differs from averaging two means
    expected = torch.cat(cells).mean(dim=0)
    pooled = target_of(small_sam, first, second)
    torch.testing.assert_close(pooled.embedding_c, expected)
    torch.testing.assert_close(pooled.feature_c.norm(), torch.tensor(1.0))


def test_the_first_of_equal_pixels_is_chosen() -> None:
    similarity = torch.zeros(4, 6)
    similarity[1, 2] = similarity[3, 0] = 1.0
    similarity[0, 5] = similarity[2, 1] = -1.0
    points = persam.select_points([similarity], [Frame((4, 6), (8, 12))], negative=True)
    assert points.xy_np2[0].tolist() == [[4.0, 2.0], [10.0, 0.0]]
    assert points.labels_np[0].tolist() == [1.0, 0.0]


def test_aligned_guidance_keeps_each_cells_own_value_and_leaves_the_padding_out(small_sam: Sam) -> None:
    frame = small_sam.frame((60, 120))  # the lower half of the grid is padding
    similarity = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0))
    on_image = persam.similarity_on_image(small_sam, similarity[0], frame)
    guidance = persam.attention_guidance(small_sam, similarity, [on_image], [frame], "aligned")[0]
    expected = ((similarity[0, :4] - on_image.mean()) / on_image.std()).sigmoid()
    torch.testing.assert_close(guidance[:4], expected)
    assert guidance[4:].abs().max() == 0


def test_official_guidance_squashes_the_image_onto_the_whole_grid(small_sam: Sam) -> None:
    frame = small_sam.frame((60, 120))
    on_image = torch.zeros(60, 120)
    on_image[:30] = 1.0  # the upper half of the image
    guidance = persam.attention_guidance(small_sam, torch.zeros(1, 8, 8), [on_image], [frame], "official")[0]
    assert (guidance[:4] > 0.5).all()
    assert (guidance[4:] < 0.5).all()


def test_a_constant_similarity_gives_guidance_without_nan(small_sam: Sam) -> None:
    frame = small_sam.frame((1, 1))
    guidance = persam.attention_guidance(small_sam, torch.ones(1, 8, 8), [torch.ones(1, 1)], [frame], "aligned")
    assert torch.isfinite(guidance).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (600, 4), (90, 120)])
def test_photos_of_any_shape_give_a_mask_of_their_own_size(
    small_sam: Sam, disc_reference: Reference, size: tuple[int, int]
) -> None:
    photo = scene(*size)
    features = small_sam.encode([resize_longest_side(photo, 128)])
    ((raw,),) = persam.segment(
        small_sam, features, [small_sam.frame(size)], [target_of(small_sam, disc_reference)]
    ).wait()
    assert raw is None or raw.mask_hw.shape == size


def test_an_empty_mask_on_the_way_is_no_instance_and_leaves_the_others_alone(small_sam: Sam) -> None:
    frames = [small_sam.frame((90, 120)), small_sam.frame((90, 120))]
    features = small_sam.encode([resize_longest_side(scene(90, 120, seed), 128) for seed in (0, 1)])
    points = persam.select_points([torch.rand(90, 120), torch.rand(90, 120)], frames, negative=True)
    logits = torch.zeros(2, 32, 32)
    prior = Prior(points, torch.tensor([0.5, 0.6]))
    full, empty = torch.ones(90, 120, dtype=torch.bool), torch.zeros(90, 120, dtype=torch.bool)
    (first,), (second,) = persam.refine_in_box(small_sam, features, frames, prior, logits, [empty, full], 1).wait()
    assert first is None
    assert second is not None
    assert second.similarity == pytest.approx(0.6)
    neither = persam.refine_in_box(small_sam, features, frames, prior, logits, [empty, empty], 2)
    assert neither.wait() == [[None, None]]


def test_an_empty_reference_mask_is_refused() -> None:
    with pytest.raises(BadReferenceError, match="'cup' is empty"):
        Reference("cup", scene(10, 10), np.zeros((10, 10), dtype=bool))


def test_a_reference_mask_of_another_size_is_refused_with_both_sizes() -> None:
    with pytest.raises(BadReferenceError, match=r"'cup' is 20 x 10 pixels, but its photo is 30 x 10"):
        Reference("cup", scene(10, 30), np.ones((10, 20), dtype=bool))
