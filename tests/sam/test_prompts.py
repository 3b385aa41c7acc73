"""Prompts are embedded as the package embeds them, to the bit, however many there are."""

from collections.abc import Iterator

import pytest
import torch
from segment_anything.modeling import PromptEncoder

from persam_ray.sam.prompts import embed_prompts
from persam_ray.types import Points


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    torch.manual_seed(0)
    made = PromptEncoder(embed_dim=256, image_embedding_size=(8, 8), input_image_size=(128, 128), mask_in_chans=16)
    return made.eval().requires_grad_(False)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("with_box", [False, True])
@pytest.mark.parametrize("labels", [[1.0], [1.0, 0.0], [0.0, 1.0, 1.0]])
def test_the_numbers_are_the_packages(
    encoder: PromptEncoder, labels: list[float], with_box: bool, with_mask: bool
) -> None:
    for count in range(1, 13):
        points = Points(128 * torch.rand(count, len(labels), 2), torch.tensor(labels).expand(count, -1))
        box_n4 = 128 * torch.rand(count, 4) if with_box else None
        logits_nhw = torch.randn(count, 32, 32) if with_mask else None
        tokens, dense = embed_prompts(encoder, points, box_n4, logits_nhw)
        masks = None if logits_nhw is None else logits_nhw[:, None]
        expected_tokens, expected_dense = encoder((points.xy_np2, points.labels_np), box_n4, masks)
        assert torch.equal(tokens, expected_tokens)
        assert torch.equal(dense, expected_dense)
