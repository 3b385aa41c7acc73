"""Agreement with the official PerSAM (commit a7e8724), whose inputs and outputs lie in tests/parity.

They were made by running it unmodified on the CPU in float32, with seeded weights. Those weights make a chaotic
decoder (the rule for names with "token" leaves its cross-attention saturated: float32 differs from float64 by 5e-3 on
logits after one call, by 1 after three), so agreement over the whole cascade asks for the same sums in the same
order. One image at a time gives just that; hence no batches here.

A CPU of another kind sums in another order, and segment_anything itself is then 5e-3 from the recordings after one
call. There only what comes before the decoder is held to them, and every call but the guided one to segment_anything's
own answer to the same question, as it is everywhere.
"""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.npyio import NpzFile
from PIL import Image
from segment_anything.modeling import Sam as PackageSam
from torch import Tensor

from persam_ray.images import decode_image, decode_mask, resize_longest_side
from persam_ray.methods import persam, persam_f
from persam_ray.methods.persam_f import PersamFTarget
from persam_ray.methods.references import encode_references
from persam_ray.sam.model import Sam
from persam_ray.types import Checkpoint, Frame, MaskCandidates, Points, Reference
from tests.seeded_weights import fill, official_decoder, official_sam, seeded

PARITY = Path(__file__).parents[1] / "parity"
SHAPES = ("portrait", "square", "landscape")
IMAGES = ("00", "01")


@pytest.fixture(scope="module")
def sam() -> Sam:
    model = official_sam()
    return Sam(Checkpoint(fill(model, seed=2305)), precision="float32")


def official(shape: str, method: str) -> NpzFile:
    content: NpzFile = np.load(PARITY / shape / f"{method}.npz")
    return content


def reference(shape: str) -> Reference:
    folder = PARITY / shape
    mask = decode_mask((folder / "00_mask.png").read_bytes())
    return Reference("target", decode_image((folder / "00.jpg").read_bytes()), mask)


@cache
def fitted(sam: Sam, shape: str) -> PersamFTarget:
    return persam_f.make_target_f(sam, encode_references(sam, [reference(shape)]))


@cache
def encoded(sam: Sam, shape: str, image: str) -> tuple[torch.Tensor, Frame]:
    pixels = decode_image((PARITY / shape / f"{image}.jpg").read_bytes())
    return sam.encode([resize_longest_side(pixels, 1024)]), sam.frame(pixels.shape[:2])


@pytest.fixture(scope="module")
def package() -> PackageSam:
    """segment_anything's own model with the same weights."""
    model = official_sam()
    fill(model, seed=2305)
    return model


@torch.no_grad()
def encoded_by_package(package: PackageSam, shape: str, image: str) -> Tensor:
    pixels = resize_longest_side(decode_image((PARITY / shape / f"{image}.jpg").read_bytes()), 1024)
    features: Tensor = package.image_encoder(package.preprocess(torch.from_numpy(pixels.copy()).permute(2, 0, 1))[None])
    return features


@torch.no_grad()
def decoded_by_package(
    package: PackageSam, features: Tensor, points: Points, box: Tensor | None = None, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return logits and predicted IoU of the three scales."""
    sparse, dense = package.prompt_encoder((points.xy_np2, points.labels_np), box, mask)
    position = package.prompt_encoder.get_dense_pe()
    logits, scores = package.mask_decoder(features, position, sparse, dense, multimask_output=True)
    return logits, scores


@pytest.fixture(scope="module")
def sums_as_recorded(package: PackageSam) -> bool:
    """Whether segment_anything gives the recorded logits on this CPU."""
    for shape in SHAPES:
        expected = official(shape, "persam_f")
        xy = torch.from_numpy(expected["fit/point_coords"]).reshape(1, -1, 2)
        features = encoded_by_package(package, shape, "00")
        logits, _ = decoded_by_package(package, features, Points(xy, torch.ones(xy.shape[:2])))
        if np.abs(logits[0, :, ::4, ::4].numpy() - expected["fit/low_res"]).max() > 1e-3:
            return False
    return True


def official_box(mask: Tensor, frame: Frame) -> Tensor:
    """Return the first and last column and row of a mask as a box prompt, as the official code takes it."""
    rows, columns = mask.nonzero().T
    corners = torch.stack([columns.min(), rows.min(), columns.max(), rows.max()])
    scale_xy = torch.tensor(frame.resized_hw[::-1], dtype=torch.float64) / torch.tensor(frame.original_hw[::-1])
    return (corners * scale_xy.repeat(2))[None].float()


def skip_rest(sums_as_recorded: bool) -> None:
    """End a test here where the decoder's chaos has taken over."""
    if not sums_as_recorded:
        pytest.skip("on this CPU segment_anything itself does not give the recorded logits")


def answer_alike(candidates: MaskCandidates, by_package: tuple[Tensor, Tensor]) -> None:
    """Compare with segment_anything's answer to the same question."""
    for ours, theirs in zip((candidates.logits_nkhw, candidates.iou_scores_nk), by_package, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def agree(candidates: MaskCandidates, expected: NpzFile, step: str) -> None:
    """Compare logits (every 4th row and column was kept) and predicted IoU."""
    logits = candidates.logits_nkhw[0, :, ::4, ::4].numpy()
    np.testing.assert_allclose(logits, expected[f"{step}/low_res"], atol=1e-3, rtol=0)
    np.testing.assert_allclose(candidates.iou_scores_nk[0].numpy(), expected[f"{step}/scores"], atol=1e-3, rtol=0)


def iou_with_official(mask: torch.Tensor, shape: str, name: str) -> float:
    expected = np.asarray(Image.open(PARITY / shape / f"{name}.png")) > 0
    found = mask.numpy()
    return float((found & expected).sum() / (found | expected).sum())


@pytest.mark.parametrize("shape", SHAPES)
def test_photos_are_encoded_as_by_the_package(sam: Sam, package: PackageSam, shape: str) -> None:
    features, _ = encoded(sam, shape, "00")
    torch.testing.assert_close(features, encoded_by_package(package, shape, "00"), atol=1e-5, rtol=0)


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("shape", SHAPES)
def test_persam_agrees_with_the_official_code_at_every_step(
    sam: Sam, package: PackageSam, sums_as_recorded: bool, shape: str, image: str
) -> None:
    expected = official(shape, "persam")
    target = persam.make_target(sam, encode_references(sam, [reference(shape)]))
    np.testing.assert_allclose(target.embedding_c.numpy(), expected["target_embedding"], atol=1e-5)

    features, frame = encoded(sam, shape, image)
    similarity = persam.similarity_map(features, [target])
    on_image = persam.similarity_on_image(sam, similarity[0], frame)
    points = persam.select_points([on_image], [frame], negative=True)
    np.testing.assert_array_equal(points.xy_np2.numpy(), expected[f"{image}/step1/point_coords"])

    guidance = persam.attention_guidance(sam, similarity, [on_image], [frame], "official")
    np.testing.assert_allclose(guidance.flatten().numpy(), expected[f"{image}/step1/attn"].ravel(), atol=1e-4)

    first = sam.decode(features, points, guidance_nhw=guidance, embedding_nc=target.embedding_c[None], multimask=False)
    second = sam.decode(features, points, mask_logits_nhw=first.logits_nkhw[:, 0], multimask=True)
    answer_alike(second, decoded_by_package(package, features, points, mask=first.logits_nkhw))
    logits, _ = second.best()
    masks = [sam.to_original(logits, frame)[0] > 0]
    third = persam.decode_in_box(sam, features, [frame], points, logits, masks)
    answer_alike(third, decoded_by_package(package, features, points, official_box(masks[0], frame), logits[:, None]))

    skip_rest(sums_as_recorded)
    for number, candidates in enumerate((first, second, third), start=1):
        agree(candidates, expected, f"{image}/step{number}")


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("shape", SHAPES)
def test_persam_gives_the_official_masks(sam: Sam, sums_as_recorded: bool, shape: str, image: str) -> None:
    skip_rest(sums_as_recorded)
    target = persam.make_target(sam, encode_references(sam, [reference(shape)]))
    features, frame = encoded(sam, shape, image)
    ((raw,),) = persam.segment(sam, features, [frame], [target], "official").wait()
    assert raw is not None
    assert iou_with_official(raw.mask_hw, shape, f"{image}_persam") >= 0.999


@pytest.mark.parametrize("shape", SHAPES)
def test_persam_f_fits_the_official_mask_weights(sam: Sam, shape: str) -> None:
    target = fitted(sam, shape)
    np.testing.assert_allclose(target.mask_weights_3.numpy(), official(shape, "persam_f")["mask_weights"], atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_persam_f_fits_on_the_official_logits(
    sam: Sam, package: PackageSam, sums_as_recorded: bool, shape: str
) -> None:
    expected = official(shape, "persam_f")
    target = fitted(sam, shape)
    features, frame = encoded(sam, shape, "00")
    points = persam_f.locate_f(sam, features, [frame], [target]).points
    np.testing.assert_array_equal(points.xy_np2.numpy(), expected["fit/point_coords"])
    found = sam.decode(features, points, multimask=True)
    answer_alike(found, decoded_by_package(package, features, points))
    skip_rest(sums_as_recorded)
    agree(found, expected, "fit")


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("shape", SHAPES)
def test_persam_f_agrees_with_the_official_code_from_its_weights_on(
    sam: Sam, package: PackageSam, sums_as_recorded: bool, shape: str, image: str
) -> None:
    # From the official weights, because ours differ in the last bit and this decoder makes 0.1 of it in two calls.
    expected = official(shape, "persam_f")
    target = replace(fitted(sam, shape), mask_weights_3=torch.from_numpy(expected["mask_weights"]))
    features, frame = encoded(sam, shape, image)
    points = persam_f.locate_f(sam, features, [frame], [target]).points
    np.testing.assert_array_equal(points.xy_np2.numpy(), expected[f"{image}/step1/point_coords"])
    found = sam.decode(features, points, multimask=True)
    answer_alike(found, decoded_by_package(package, features, points))
    skip_rest(sums_as_recorded)
    agree(found, expected, f"{image}/step1")

    ((raw,),) = persam_f.segment_f(sam, features, [frame], [target]).wait()
    assert raw is not None
    assert raw.predicted_iou == pytest.approx(expected[f"{image}/step3/scores"].max(), abs=1e-3)
    assert iou_with_official(raw.mask_hw, shape, f"{image}_persam_f") >= 0.999


@pytest.mark.parametrize("shape", ["portrait", "square"])
def test_mobile_sam_encodes_as_its_official_code(shape: str) -> None:
    shapes = json.loads((PARITY / "mobile_sam_names.json").read_text())
    counters = {name for name in shapes if name.endswith("num_batches_tracked")}
    state = {
        name: torch.zeros(size, dtype=torch.long if name in counters else torch.float32)
        for name, size in shapes.items()
    }
    common = official_sam(image_size=1024, embed_dim=8, depth=1, heads=1, global_blocks=())
    state |= {f"prompt_encoder.{name}": value for name, value in common.prompt_encoder.state_dict().items()}
    state |= {f"mask_decoder.{name}": value for name, value in official_decoder().state_dict().items()}
    sam = Sam(Checkpoint(seeded(state, seed=2306)), precision="float32")

    features, _ = encoded(sam, shape, "00")
    expected = np.load(PARITY / "mobile_sam_features.npz")[shape]
    np.testing.assert_allclose(features[0, ::8, ::4, ::4].numpy(), expected, atol=1e-3)


def test_points_of_a_batch_are_those_of_its_images(sam: Sam) -> None:
    target = persam.make_target(sam, encode_references(sam, [reference("portrait")]))
    expected = official("portrait", "persam")
    photos = [decode_image((PARITY / "portrait" / f"{image}.jpg").read_bytes()) for image in IMAGES]
    frames = [sam.frame(photo.shape[:2]) for photo in photos]
    similarity = persam.similarity_map(sam.encode([resize_longest_side(photo, 1024) for photo in photos]), [target])
    on_images = [persam.similarity_on_image(sam, hw, frame) for hw, frame in zip(similarity, frames, strict=True)]
    points: Points = persam.select_points(on_images, frames, negative=True)
    for row, image in zip(points.xy_np2.numpy(), IMAGES, strict=True):
        np.testing.assert_array_equal(row, expected[f"{image}/step1/point_coords"][0])
