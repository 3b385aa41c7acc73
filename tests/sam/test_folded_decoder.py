"""The folded decoder against the official arithmetic."""

import pytest
import torch
from segment_anything.modeling import MaskDecoder
from torch import Tensor, nn

from persam_ray.sam.decoder import predict_masks
from persam_ray.sam.folded_decoder import FoldedDecoder
from persam_ray.sam.model import Sam
from persam_ray.types import Checkpoint
from tests.seeded_weights import official_decoder

GRID_HW = (6, 5)  # not square, so that rows and columns cannot be mixed up unseen


@pytest.fixture(scope="module")
def decoder() -> MaskDecoder:
    torch.manual_seed(0)
    decoder = official_decoder().eval().requires_grad_(requires_grad=False)
    for name, weight in decoder.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(weight, std=0.5)  # zeros would hide a bias that is left out
        elif "norm" in name:
            nn.init.uniform_(weight, 0.5, 1.5)
    return decoder


def inputs(prompts: int = 3) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(prompts)
    shapes = {
        "image": (prompts, 256, *GRID_HW),
        "position": (1, 256, *GRID_HW),
        "tokens": (prompts, 2, 256),
        "guidance": (prompts, *GRID_HW),
        "embedding": (prompts, 256),
    }
    drawn = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    return drawn | {"guidance": drawn["guidance"].sigmoid()}


def both(
    decoder: MaskDecoder, given: dict[str, Tensor], dtype: torch.dtype, *, guided: bool, multimask: bool
) -> list[tuple[Tensor, Tensor]]:
    """Return logits and predicted IoU of the package's arithmetic, then of the folded."""
    guidance, embedding = (given["guidance"], given["embedding"]) if guided else (None, None)
    image, prompts, guides = given["image"], given["tokens"], {"guidance_nhw": guidance, "embedding_nc": embedding}
    exact = predict_masks(decoder, image, given["position"], prompts, **guides, multimask=multimask)
    folded = FoldedDecoder(decoder, given["position"], dtype)(image, prompts, **guides, multimask=multimask)
    return [exact, folded]


@torch.inference_mode()
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("prompts", [1, 3])
def test_folding_is_exact(decoder: MaskDecoder, prompts: int, guided: bool, multimask: bool) -> None:
    (logits, iou), (found_logits, found_iou) = both(
        decoder, inputs(prompts), torch.float32, guided=guided, multimask=multimask
    )
    assert logits.shape == (prompts, 3 if multimask else 1, 4 * GRID_HW[0], 4 * GRID_HW[1])
    torch.testing.assert_close(found_logits, logits, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(found_iou, iou, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_in_bfloat16_logits_are_within_three_percent(decoder: MaskDecoder) -> None:
    (logits, iou), (found_logits, found_iou) = both(decoder, inputs(), torch.bfloat16, guided=True, multimask=True)
    assert found_logits.dtype == found_iou.dtype == torch.float32
    assert (found_logits - logits).norm() < 0.03 * logits.norm()
    assert (found_iou - iou).abs().max() < 0.03 * iou.abs().max()
    assert not torch.equal(found_logits, logits)


def test_all_tensors_are_where_the_decoder_is() -> None:
    decoder = official_decoder().to("meta")
    folded = FoldedDecoder(decoder, torch.zeros(1, 256, *GRID_HW, device="meta"), torch.bfloat16)
    assert {tensor.device.type for tensor in (*folded.parameters(), *folded.buffers())} == {"meta"}


def test_sam_folds_in_bfloat16_and_keeps_the_packages_arithmetic_in_float32(small_checkpoint: Checkpoint) -> None:
    assert isinstance(Sam(small_checkpoint, precision="bfloat16")._folded_decoder, FoldedDecoder)
    assert Sam(small_checkpoint, precision="float32")._folded_decoder is None
