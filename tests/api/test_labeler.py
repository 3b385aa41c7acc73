"""A labeler in this process: what it takes, and that it gives what the job's stage gives."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import persam_ray as pr
from persam_ray.api.labeler import OpenedSam
from persam_ray.api.photos import ImageLike, open_mask, open_photo
from persam_ray.data.checkpoints import read_sam
from persam_ray.data.weights import locate
from persam_ray.images import BadImageError, resized_size_hw
from persam_ray.masks import encode_rle
from persam_ray.methods.registry import SAM_METHODS, MethodName
from persam_ray.stages.decode import DecodeImages
from persam_ray.stages.segment import SegmentWithSam
from persam_ray.stages.targets import SegmentOptions, make_targets
from persam_ray.types import ByteArray
from tests.conftest import disc, scene

PHOTO = scene(90, 120)


def encoded(image: Image.Image, suffix: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, suffix)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def sam() -> OpenedSam:
    return pr.load_sam("demo", device="cpu")


@pytest.fixture(scope="module")
def reference() -> pr.Reference:
    return pr.Reference.open("disc", PHOTO, disc(90, 120))


@pytest.mark.parametrize("method", SAM_METHODS)
def test_a_labeler_gives_what_the_job_gives(method: MethodName, reference: pr.Reference, tmp_path: Path) -> None:
    other = scene(70, 130, seed=5)
    checkpoint, (_, size_px) = read_sam(locate("demo"))
    options = SegmentOptions("cpu", 2, 1, "auto", "aligned")
    targets, _ = make_targets(checkpoint, "demo", {"disc": [reference]}, options, method)
    row = {"image_id": "a", "image": encoded(Image.fromarray(other)), "error": None, "version": ""}
    table = pa.Table.from_pylist([row | dict.fromkeys(["height", "width", "annotations"])])
    decode = DecodeImages(partial(resized_size_hw, image_size_px=size_px))
    stage = SegmentWithSam(lambda: (checkpoint, {method: targets}), options, lambda *_: None)
    (expected,) = stage(decode(table)).to_pylist()[0]["instances"]
    (found,) = pr.Labeler("demo", [reference], method, device="cpu")(other)
    assert encode_rle(found.mask_hw) == expected["rle"]
    assert found.score == pytest.approx(expected["score"], abs=1e-6)
    assert list(found.box_xyxy) == expected["box_xyxy"]
    assert found.category == "disc"


def saved(photo: ByteArray, path: Path) -> Path:
    Image.fromarray(photo).save(path)
    return path


OPENERS: dict[str, Callable[[ByteArray, Path], ImageLike]] = {
    "array": lambda photo, _: photo,
    "PIL image": lambda photo, _: Image.fromarray(photo),
    "bytes": lambda photo, _: encoded(Image.fromarray(photo)),
    "path": saved,
    "text": lambda photo, path: str(saved(photo, path)),
    "URL": lambda photo, path: saved(photo, path).as_uri(),
}


@pytest.mark.parametrize("kind", OPENERS)
def test_photos_of_every_kind_are_the_same_photo(
    kind: str, sam: OpenedSam, reference: pr.Reference, tmp_path: Path
) -> None:
    labeler = pr.Labeler(sam, [reference])
    (expected,), (found,) = labeler(PHOTO), labeler(OPENERS[kind](PHOTO, tmp_path / "a.png"))
    np.testing.assert_array_equal(found.mask_hw, expected.mask_hw)
    opened = pr.Reference.open("disc", OPENERS[kind](PHOTO, tmp_path / "b.png"), disc(90, 120))
    np.testing.assert_array_equal(opened.image_hw3, reference.image_hw3)


def test_a_photo_lying_on_its_side_is_turned_by_its_exif_orientation(sam: OpenedSam, reference: pr.Reference) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    lying = Image.fromarray(np.rot90(PHOTO))
    buffer = io.BytesIO()
    lying.save(buffer, "PNG", exif=exif)
    labeler = pr.Labeler(sam, [reference])
    (upright,) = labeler(PHOTO)
    for photo in (buffer.getvalue(), Image.open(io.BytesIO(buffer.getvalue()))):
        (found,) = labeler(photo)
        np.testing.assert_array_equal(found.mask_hw, upright.mask_hw)


def test_masks_of_every_kind_are_the_same_mask(reference: pr.Reference, tmp_path: Path) -> None:
    gray = Image.fromarray(disc(90, 120).astype(np.uint8) * 255)
    gray.save(tmp_path / "mask.png")
    for mask in (disc(90, 120), disc(90, 120).astype(np.float32), gray, encoded(gray), tmp_path / "mask.png"):
        np.testing.assert_array_equal(pr.Reference.open("disc", PHOTO, mask).mask_hw, reference.mask_hw)


def test_references_of_a_category_are_pooled_and_categories_come_in_the_order_they_are_named(
    sam: OpenedSam, reference: pr.Reference
) -> None:
    rest = pr.Reference("rest", PHOTO, ~disc(90, 120))
    labeler = pr.Labeler(sam, [reference, rest, pr.Reference.open("disc", scene(90, 120, seed=3), disc(90, 120))])
    assert [instance.category for instance in labeler(PHOTO)] == ["disc", "rest"]


def test_a_gray_array_is_a_photo(sam: OpenedSam, reference: pr.Reference) -> None:
    assert all(found.mask_hw.shape == (90, 120) for found in pr.Labeler(sam, [reference])(PHOTO[:, :, 0]))


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        (PHOTO.astype(np.float32), "must be uint8"),
        (PHOTO[:, :, :2], r"but got uint8 of shape \(90, 120, 2\)"),
        (b"no", "not an image"),
        (b"", "empty"),
    ],
)
def test_what_is_no_photo_is_said(photo: ImageLike, message: str, sam: OpenedSam, reference: pr.Reference) -> None:
    with pytest.raises(BadImageError, match=message):
        pr.Labeler(sam, [reference])(photo)


def test_a_wrong_call_is_named_with_what_is_allowed(sam: OpenedSam, reference: pr.Reference, tmp_path: Path) -> None:
    with pytest.raises(pr.PersamRayError, match="at least one"):
        pr.Labeler(sam, [])
    with pytest.raises(pr.PersamRayError, match="persam or persam_f, but is 'magic'"):
        pr.Labeler(sam, [reference], "magic")  # type: ignore[arg-type]  # what a user may write
    with pytest.raises(pr.PersamRayError, match="one of the names"):
        pr.load_sam("vit_x")
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(pr.PersamRayError, match=r"reference of 'cup': .*a\.png: not an image"):
        pr.Reference.open("cup", tmp_path / "a.png", disc(90, 120))
    with pytest.raises(pr.PersamRayError, match="its photo is"):
        pr.Reference.open("cup", PHOTO, disc(90, 121))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": "Aligned"}, "guidance must be aligned or official, but is 'Aligned'"),
        ({"precision": "x"}, "precision must be auto, float32 or bfloat16, but is 'x'"),
        ({"device": "mps"}, "device must be auto, cpu or cuda, but is 'mps'"),
    ],
)
def test_a_mistyped_choice_is_not_taken_for_another(
    options: dict[str, Any], message: str, reference: pr.Reference
) -> None:
    with pytest.raises(pr.PersamRayError, match=message):
        pr.Labeler("demo", [reference], **options)


def test_references_may_be_any_iterable_of_references(sam: OpenedSam, reference: pr.Reference) -> None:
    (expected,), (found,) = pr.Labeler(sam, [reference])(PHOTO), pr.Labeler(sam, iter([reference]))(PHOTO)
    np.testing.assert_array_equal(found.mask_hw, expected.mask_hw)
    wrong: list[tuple[Any, str]] = [
        (iter([]), "at least one"), (reference, "is a single one"), (["cup.jpg"], "one is of type str"),
    ]  # fmt: skip
    for references, message in wrong:
        with pytest.raises(pr.PersamRayError, match=message):
            pr.Labeler(sam, references)


def test_a_reference_is_itself_and_needs_a_name(reference: pr.Reference) -> None:
    assert reference == reference  # noqa: PLR0124 - arrays inside must not be compared
    assert len({reference, pr.Reference.open("disc", PHOTO, disc(90, 120))}) == 2
    for name in ("", 3):
        with pytest.raises(pr.PersamRayError, match="must be a name"):
            pr.Reference.open(name, PHOTO, disc(90, 120))  # type: ignore[arg-type]  # what a user may write


def test_a_checkpoint_may_be_a_path(reference: pr.Reference) -> None:
    assert pr.Labeler(Path(locate("demo")), [reference], device="cpu").sam.image_size_px > 0
    with pytest.raises(pr.PersamRayError, match="no such checkpoint file"):
        pr.Labeler(Path("nowhere.pth"), [reference])


def closed() -> Image.Image:
    image = Image.open(io.BytesIO(encoded(Image.fromarray(PHOTO))))
    image.close()
    return image


DAMAGED: dict[str, tuple[Callable[[], Any], str]] = {
    "truncated": (lambda: Image.open(io.BytesIO(encoded(Image.fromarray(PHOTO))[:2000])), "damaged"),
    "closed": (closed, "damaged"),
    "huge": (lambda: Image.new("1", (20_000, 20_000)), "20000 x 20000 pixels is more than the 134 megapixels"),
    "list": (lambda: [1], "must be a path or URL, bytes, a PIL image or an array, but is list"),
    "none": (lambda: None, "but is NoneType"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_an_image_that_cannot_be_used_is_named(kind: str) -> None:
    make, message = DAMAGED[kind]
    with pytest.raises(BadImageError, match=message):
        open_photo(make())
    with pytest.raises(BadImageError, match=message):
        open_mask(make())


def test_an_array_is_as_limited_as_a_file() -> None:
    with pytest.raises(BadImageError, match="more than the 134 megapixels"):
        open_photo(np.broadcast_to(np.uint8(0), (20_000, 7_000)))
