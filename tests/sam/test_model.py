"""SAM built from a checkpoint's tensors gives what `segment_anything`'s own modules give."""

import numpy as np
import pytest
import torch

from persam_ray.images import resize_longest_side
from persam_ray.sam.model import Sam
from persam_ray.types import Checkpoint, Points
from tests.conftest import scene
from tests.seeded_weights import compact_checkpoint, fill, official_sam

POINTS = Points(torch.tensor([[[30.0, 40.0], [5.0, 90.0]]]), torch.tensor([[1.0, 0.0]]))


def two_points(batch: int) -> Points:
    return Points(POINTS.xy_np2.expand(batch, -1, -1), POINTS.labels_np.expand(batch, -1))


@pytest.mark.parametrize(
    ("embed_dim", "depth", "heads", "global_blocks", "window", "image_size"),
    [
        (768, 12, 12, (2, 5, 8, 11), 14, 512),  # ViT-B, on a quarter of its pixels
        (48, 3, 3, (1,), 5, 128),
        (64, 2, 4, (), 4, 128),  # no global block
        (32, 2, 2, (0, 1), 14, 192),  # global blocks only
    ],
)
def test_a_vit_of_any_pattern_encodes_as_the_package_does(
    embed_dim: int, depth: int, heads: int, global_blocks: tuple[int, ...], window: int, image_size: int
) -> None:
    model = official_sam(
        image_size=image_size,
        embed_dim=embed_dim,
        depth=depth,
        heads=heads,
        global_blocks=global_blocks,
        window=window,
    )
    sam = Sam(Checkpoint(fill(model, seed=1)), precision="float32")
    pixels = resize_longest_side(scene(60, 90), image_size)
    with torch.inference_mode():
        tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        expected = model.image_encoder(model.preprocess(tensor)[None])
    assert sam.image_size_px == image_size
    torch.testing.assert_close(sam.encode([pixels]), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("multimask", [True, False])
def test_unguided_decoding_is_the_packages_own(small_checkpoint: Checkpoint, small_sam: Sam, multimask: bool) -> None:
    model = official_sam(image_size=128, embed_dim=32, depth=2, global_blocks=(1,), window=3)
    model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in small_checkpoint.tensors.items()})
    features = small_sam.encode([resize_longest_side(scene(80, 128), 128)])
    earlier = torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(0))
    box = torch.tensor([[10.0, 20.0, 90.0, 70.0]])
    with torch.inference_mode():
        sparse, dense = model.prompt_encoder((POINTS.xy_np2, POINTS.labels_np), box, earlier[:, None])
        masks, iou = model.mask_decoder(features, model.prompt_encoder.get_dense_pe(), sparse, dense, multimask)
    found = small_sam.decode(features, POINTS, box_n4=box, mask_logits_nhw=earlier, multimask=multimask)
    torch.testing.assert_close(found.logits_nkhw, masks)
    torch.testing.assert_close(found.iou_scores_nk, iou)


def test_to_original_is_the_packages_postprocessing(small_sam: Sam) -> None:
    model = official_sam(image_size=128, embed_dim=32, depth=2, global_blocks=(1,), window=3)
    frame = small_sam.frame((50, 77))
    logits = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = model.postprocess_masks(logits[None], frame.resized_hw, frame.original_hw)[0]
    torch.testing.assert_close(small_sam.to_original(logits, frame), expected)


def test_a_batch_of_images_and_prompts_gives_what_each_gives_alone(street_like: Sam) -> None:
    photos = [resize_longest_side(scene(h, w, seed=h), 128) for h, w in ((90, 128), (128, 60), (100, 100))]
    features = street_like.encode(photos)
    together = street_like.decode(features, two_points(3), multimask=True)
    for index, photo in enumerate(photos):
        alone = street_like.decode(street_like.encode([photo]), two_points(1), multimask=True)
        torch.testing.assert_close(together.logits_nkhw[index], alone.logits_nkhw[0], atol=1e-3, rtol=1e-3)


def test_prompts_on_one_image_give_what_each_gives_alone(street_like: Sam) -> None:
    features = street_like.encode([resize_longest_side(scene(h, w, seed=h), 128) for h, w in ((90, 128), (128, 60))])
    xy_n12 = torch.tensor([[30.0, 40.0], [60.0, 20.0], [10.0, 90.0], [50.0, 50.0]])[:, None]
    together = street_like.decode(features, Points(xy_n12, torch.ones(4, 1)), multimask=True)
    for prompt, image in enumerate((0, 0, 1, 1)):
        alone = street_like.decode(
            features[image : image + 1], Points(xy_n12[prompt : prompt + 1], torch.ones(1, 1)), multimask=True
        )
        torch.testing.assert_close(together.logits_nkhw[prompt], alone.logits_nkhw[0], atol=1e-3, rtol=1e-3)


def test_guidance_moves_the_result_and_only_through_the_attention(small_sam: Sam) -> None:
    features = small_sam.encode([resize_longest_side(scene(128, 128), 128)])
    maps = [torch.rand(1, *small_sam.grid_hw, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    first, second = (small_sam.decode(features, POINTS, guidance_nhw=hw, multimask=False) for hw in maps)
    assert not torch.allclose(first.logits_nkhw, second.logits_nkhw)
    # A constant map shifts all weights alike, and softmax ignores that: every constant gives the same result.
    zero, one = (
        small_sam.decode(features, POINTS, guidance_nhw=torch.full_like(maps[0], value), multimask=False)
        for value in (0.0, 1.0)
    )
    torch.testing.assert_close(zero.logits_nkhw, one.logits_nkhw, atol=1e-3, rtol=1e-3)


def test_bfloat16_encodes_close_to_float32(small_checkpoint: Checkpoint, small_sam: Sam) -> None:
    pixels = [resize_longest_side(scene(96, 128), 128)]
    exact = small_sam.encode(pixels)
    rough = Sam(small_checkpoint, precision="bfloat16").encode(pixels)
    assert rough.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(exact, rough, dim=1).min() > 0.99
    assert not torch.equal(exact, rough)


@pytest.fixture(scope="module")
def street_like() -> Sam:
    """A compact SAM whose seeded weights do not make attention chaotic: PyTorch's own initial ones."""
    return Sam(compact_checkpoint(), precision="float32")


def test_compact_sam_merges_strides_8_and_32_at_16(street_like: Sam) -> None:
    features = street_like.encode([resize_longest_side(scene(128, 128), 128)])
    assert features.shape == (1, 256, 8, 8)
