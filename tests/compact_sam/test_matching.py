"""Finding a thing of one view again in the other."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from persam_ray.compact_sam.matching import MATCH_WEIGHT, TEMPERATURE, Labels, match_loss

SEEN = np.array([[1, 1, 2], [3, 4, -1]], dtype=np.int16)
SOUGHT = np.array([[2, 4, 5], [-1, 1, 3]], dtype=np.int16)  # thing 5 is not seen


def features_of(things_hw: Labels) -> torch.Tensor:
    """A direction of its own for every thing, (1, c, h, w); the padding has that of thing 1."""
    return 3 * F.one_hot(torch.tensor(np.where(things_hw < 0, 1, things_hw)).long(), 6).permute(2, 0, 1)[None].float()


def test_things_with_features_of_their_own_are_found() -> None:
    found = match_loss(torch.cat([features_of(SEEN), features_of(SOUGHT)]), [SEEN, SOUGHT])
    assert 0 < found < 0.001 * MATCH_WEIGHT
    swapped = np.select([SOUGHT == 1, SOUGHT == 4], [4, 1], SOUGHT).astype(np.int16)
    assert match_loss(torch.cat([features_of(SEEN), features_of(swapped)]), [SEEN, SOUGHT]) > MATCH_WEIGHT


def test_the_loss_is_the_mean_over_things_places_and_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    features_bchw = torch.randn(2, 7, 2, 3, generator=generator)
    maps = [SEEN, SOUGHT]
    terms = []
    for seen, sought in ((0, 1), (1, 0)):
        where, which = [], []
        targets = {
            thing: np.mean([features_bchw[seen, :, y, x].numpy() for y, x in np.argwhere(maps[seen] == thing)], axis=0)
            for thing in (1, 2, 3, 4)
        }
        for thing in targets:
            places = [tuple(place) for place in np.argwhere(maps[sought] >= 0)]
            likeness = {
                (other, place): math.exp(cosine(targets[other], features_bchw[sought, :, *place].numpy()) / TEMPERATURE)
                for other in targets
                for place in places
            }
            own = [place for place in places if maps[sought][place] == thing]
            all_places = sum(likeness[thing, place] for place in places)
            where.append(-math.log(sum(likeness[thing, place] for place in own) / all_places))
            chances = [likeness[thing, place] / sum(likeness[other, place] for other in targets) for place in own]
            which.append(np.mean([-math.log(chance) for chance in chances]))
        terms += [np.mean(where), np.mean(which)]
    assert match_loss(features_bchw, maps).item() == pytest.approx(MATCH_WEIGHT * np.mean(terms), rel=1e-5)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_views_of_other_scenes_are_not_compared() -> None:
    both = torch.cat([features_of(SEEN), features_of(SOUGHT)])
    noise = torch.randn(2, 6, 2, 3, generator=torch.Generator().manual_seed(0))
    alone, others = match_loss(both, [SEEN, SOUGHT]), match_loss(noise, [SEEN, SOUGHT])
    together = match_loss(torch.cat([both, noise]), [SEEN, SOUGHT, SEEN, SOUGHT])
    torch.testing.assert_close(together, (alone + others) / 2)


def test_views_that_share_one_thing_have_nothing_to_tell_apart() -> None:
    one = np.where(SOUGHT == 1, 1, -1).astype(np.int16)
    features_bchw = torch.ones(2, 6, 2, 3, requires_grad=True)
    loss = match_loss(features_bchw, [SEEN, one])
    assert loss.item() == 0
    assert loss.dtype == torch.float32


def test_a_photo_without_another_view_is_an_error() -> None:
    with pytest.raises(ValueError, match="3 photos are not 2 views"):
        match_loss(torch.ones(3, 6, 2, 3), [SEEN, SOUGHT, SEEN])
