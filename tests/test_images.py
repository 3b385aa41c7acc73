import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from segment_anything.utils.transforms import ResizeLongestSide

from persam_ray import images
from persam_ray.images import BadImageError, decode_image, decode_mask, resize_longest_side, resized_size_hw
from persam_ray.types import ByteArray
from tests.encoded_images import encoded, huge_png, plain_jpeg, png_by_hand

RED, GREEN, BLUE, ORANGE, BLACK, WHITE = (
    (255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 100, 50), (0, 0, 0), (255, 255, 255)
)  # fmt: skip
COLORS = np.array([[RED, GREEN, BLUE], [ORANGE, BLACK, WHITE]], np.uint8)  # 2 x 3 pixels, all different


def enlarged(image: ByteArray, times: int = 16) -> ByteArray:
    """Repeat pixels, so that JPEG keeps the colour of each block."""
    return image.repeat(times, axis=0).repeat(times, axis=1)


def peak_memory_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file_format", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("GIF", {})]
)
def test_lossless_formats_give_back_the_pixels_that_were_saved(file_format: str, options: dict[str, object]) -> None:
    image = Image.fromarray(COLORS)
    if file_format == "GIF":
        image = image.quantize(6)
    decoded = decode_image(encoded(image, file_format, **options))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, COLORS)


def test_a_jpeg_keeps_its_colors_within_its_loss() -> None:
    decoded = decode_image(encoded(enlarged(COLORS), "JPEG", quality=95, subsampling=0))
    np.testing.assert_allclose(decoded[8::16, 8::16].astype(int), COLORS.astype(int), atol=4)


def test_a_cmyk_jpeg_becomes_the_rgb_that_it_was_made_from() -> None:
    cmyk = Image.fromarray(enlarged(COLORS)).convert("CMYK")
    decoded = decode_image(encoded(cmyk, "JPEG", quality=95, subsampling=0))
    np.testing.assert_allclose(decoded[8::16, 8::16].astype(int), COLORS.astype(int), atol=6)


def test_16_bit_gray_is_reduced_to_its_high_byte() -> None:
    samples = np.array([[0x0000, 0x0100, 0x8000, 0xABCD, 0xFFFF]], np.uint16)
    decoded = decode_image(encoded(samples))
    assert decoded[0].tolist() == [[value] * 3 for value in (0x00, 0x01, 0x80, 0xAB, 0xFF)]


def test_16_bit_gray_of_low_values_stays_dark_and_is_not_stretched() -> None:
    assert decode_image(encoded(np.full((2, 2), 255, np.uint16))).max() == 0


def test_16_bit_rgb_is_reduced_to_its_high_bytes() -> None:
    row = struct.pack(">6H", 0x1234, 0xFFFF, 0x00FF, 0x8000, 0x0000, 0xABCD)
    decoded = decode_image(png_by_hand(2, 1, [row], bits=16, color=2))
    assert decoded.tolist() == [[[0x12, 0xFF, 0x00], [0x80, 0x00, 0xAB]]]


def test_grayscale_fills_three_equal_channels() -> None:
    gray = np.array([[0, 7, 255]], np.uint8)
    np.testing.assert_array_equal(decode_image(encoded(gray)), np.stack([gray] * 3, axis=2))


def test_one_bit_is_black_and_white() -> None:
    image = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    np.testing.assert_array_equal(decode_image(encoded(image))[..., 0], [[0, 255], [255, 0]])


def test_a_palette_png_shows_its_palette_colors() -> None:
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(COLORS).quantize(6))), COLORS)


def test_the_transparent_color_of_a_palette_lies_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    assert decode_image(encoded(image, transparency=0)).tolist() == [[list(WHITE), list(GREEN)]]


def test_the_transparent_gray_of_a_png_lies_on_white() -> None:
    png = png_by_hand(2, 1, [bytes([5, 9])], bits=8, color=0, extra=(b"tRNS", struct.pack(">H", 5)))
    assert decode_image(png)[0, :, 0].tolist() == [255, 9]


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    rgba = np.array([[(*RED, 255), (*RED, 0), (*BLACK, 51)]], np.uint8)
    # over white: c * a + 255 * (1 - a), with a = 51 / 255 = 0.2 for the last
    assert decode_image(encoded(rgba)).tolist() == [[list(RED), list(WHITE), [204, 204, 204]]]


def test_gray_with_alpha_is_mixed_with_white() -> None:
    samples = np.array([[(40, 255), (40, 0), (0, 51)]], np.uint8)
    assert decode_image(encoded(samples))[0, :, 0].tolist() == [40, 255, 204]


@pytest.mark.parametrize(("file_format", "options"), [("GIF", {}), ("WEBP", {"lossless": True})])
def test_of_an_animation_the_first_frame_is_taken(file_format: str, options: dict[str, object]) -> None:
    first, second = (Image.new("RGB", (3, 2), color) for color in (RED, BLUE))
    animation = encoded(first, file_format, save_all=True, append_images=[second], duration=100, **options)
    np.testing.assert_array_equal(decode_image(animation), np.full((2, 3, 3), RED, np.uint8))


@pytest.mark.parametrize("size_hw", [(1, 1), (40, 6000), (6000, 40)])
def test_any_shape_is_decoded_with_rows_first(size_hw: tuple[int, int]) -> None:
    image = np.full((*size_hw, 3), 90, np.uint8)
    np.testing.assert_array_equal(decode_image(encoded(image)), image)


# --- orientation -----------------------------------------------------------------------------------------------------

# EXIF 2.32: which side of the upright picture the first stored row and column are.
STORED = {
    1: COLORS,  # top, left
    2: COLORS[:, ::-1],  # top, right
    3: COLORS[::-1, ::-1],  # bottom, right
    4: COLORS[::-1],  # bottom, left
    5: COLORS.swapaxes(0, 1),  # left, top
    6: COLORS.swapaxes(0, 1)[::-1],  # right, top
    7: COLORS.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
    8: COLORS.swapaxes(0, 1)[:, ::-1],  # left, bottom
}


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("orientation", STORED)
def test_a_rotated_jpeg_is_decoded_upright(orientation: int) -> None:
    stored = enlarged(np.ascontiguousarray(STORED[orientation]))
    decoded = decode_image(encoded(stored, "JPEG", quality=95, subsampling=0, exif=exif(orientation)))
    np.testing.assert_allclose(decoded[8::16, 8::16].astype(int), COLORS.astype(int), atol=4)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_orientation_counts_in_every_format_that_has_it(orientation: int, file_format: str) -> None:
    options = {"lossless": True} if file_format == "WEBP" else {}
    stored = encoded(np.ascontiguousarray(STORED[orientation]), file_format, exif=exif(orientation), **options)
    np.testing.assert_array_equal(decode_image(stored), COLORS)


def jpeg_with_exif(*entries: bytes) -> bytes:
    """Put a hand-written EXIF block with these 12-byte entries into a JPEG of 4 rows and 5 columns."""
    block = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    jpeg = plain_jpeg(4, 5)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


def test_an_odd_tag_beside_the_orientation_does_no_harm() -> None:
    orientation_6 = struct.pack("<HHII", 0x0112, 3, 1, 6)
    negative_width = struct.pack("<HHIi", 0x0100, 9, 1, -1)  # ImageOps.exif_transpose raises struct.error on it
    assert decode_image(jpeg_with_exif(orientation_6, negative_width)).shape == (5, 4, 3)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(orientation: int) -> None:
    assert decode_image(jpeg_with_exif(struct.pack("<HHII", 0x0112, 3, 1, orientation))).shape == (4, 5, 3)


# --- what is refused -------------------------------------------------------------------------------------------------

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
BAD = {
    "empty.jpg": (b"", r"empty \(0 bytes\)"),
    "text.jpg": (b"no picture at all", r"not an image .*17 bytes, starting with b'no pictu'"),
    "truncated.jpg": (encoded(NOISE, "JPEG")[:1500], "damaged: .*truncated"),
    "truncated.png": (encoded(NOISE, "PNG")[:6000], "damaged: .*truncated"),
    "header only.png": (encoded(NOISE, "PNG")[:33], "damaged|not an image"),
    "flipped bits.png": (encoded(NOISE).replace(b"IDAT", b"IDAT\x55", 1), "damaged"),
    "no pixels.png": (png_by_hand(0, 7, [], bits=8, color=0), "not an image"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    content, reason = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadImageError, match=reason):
        decode_image((tmp_path / name).read_bytes())


@pytest.mark.parametrize("decode", [decode_image, decode_mask])
def test_a_huge_image_is_refused_by_its_header_without_being_decoded(
    decode: Callable[[bytes], object], tmp_path: Path
) -> None:
    (tmp_path / "huge.png").write_bytes(huge_png(30_000))
    content = (tmp_path / "huge.png").read_bytes()
    assert len(content) < 2**19
    before_bytes, started_s = peak_memory_bytes(), time.perf_counter()
    with pytest.raises(BadImageError, match="30000 x 30000 pixels is more than the 134 megapixels allowed"):
        decode(content)
    assert time.perf_counter() - started_s < 1
    assert peak_memory_bytes() - before_bytes < 20 * 2**20  # decoding would take 900 MB


def test_the_limit_counts_pixels_and_includes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 20)
    assert decode_image(plain_jpeg(4, 5)).shape == (4, 5, 3)
    with pytest.raises(BadImageError, match="7 x 3 pixels"):
        decode_image(plain_jpeg(3, 7))


# --- masks -----------------------------------------------------------------------------------------------------------

OBJECT = np.zeros((4, 6), np.bool_)
OBJECT[1:3, 2:5] = True


def palette_mask() -> Image.Image:
    """Index 1 on the object; its palette is white for 0 and black for 1, which must not matter."""
    image = Image.fromarray(OBJECT.astype(np.uint8)).convert("P")
    image.putdata(OBJECT.astype(np.uint8).ravel().tolist())
    image.putpalette([*WHITE, *BLACK])
    return image


def on_object(value: tuple[int, ...], elsewhere: tuple[int, ...]) -> ByteArray:
    return np.where(OBJECT[..., None], np.array(value, np.uint8), np.array(elsewhere, np.uint8))


MASKS = {
    "0 and 255": encoded(OBJECT.astype(np.uint8) * 255),
    "0 and 1": encoded(OBJECT.astype(np.uint8)),
    "1 bit": encoded(Image.fromarray(OBJECT.astype(np.uint8) * 255).convert("1")),
    "16 bit": encoded(OBJECT.astype(np.uint16) * 256),
    "16 bit, low": encoded(OBJECT.astype(np.uint16)),
    "palette": encoded(palette_mask()),
    "RGB, one channel": encoded(on_object((0, 0, 9), BLACK)),
    "opaque RGBA": encoded(on_object((*RED, 255), (*BLACK, 255))),
    "RGBA on transparent black": encoded(on_object((*WHITE, 255), (0, 0, 0, 0))),
    "RGBA on transparent white": encoded(on_object((*WHITE, 255), (*WHITE, 0))),
    "gray with alpha": encoded(on_object((200, 255), (0, 255))),
    "float TIFF": encoded(OBJECT.astype(np.float32) * 0.25, "TIFF"),
    "float TIFF with NaN": encoded(np.where(OBJECT, np.float32(1), np.float32("nan")), "TIFF"),
    "GIF": encoded(palette_mask(), "GIF"),
    "rotated": encoded(np.ascontiguousarray(OBJECT.T[::-1]).astype(np.uint8) * 255, exif=exif(6)),
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_of_any_kind_shows_the_object(kind: str) -> None:
    decoded = decode_mask(MASKS[kind])
    assert decoded.dtype == np.bool_
    np.testing.assert_array_equal(decoded, OBJECT)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_gray_specks_of_a_jpeg_mask_are_no_object(mode: str) -> None:
    y, x = np.mgrid[:100, :100]
    disc = (y - 50) ** 2 + (x - 50) ** 2 < 30**2
    jpeg = encoded(Image.fromarray(disc.astype(np.uint8) * 255).convert(mode), "JPEG", quality=75)
    specks = decode_image(jpeg)[..., 0] > 0
    assert np.count_nonzero(specks & ~disc) > 100  # the material has the trouble that the test is about
    np.testing.assert_array_equal(decode_mask(jpeg), disc)


@pytest.mark.parametrize(("content", "reason"), [(b"", "not an image"), (b"text", "not an image")])
def test_what_is_no_mask_image_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(BadImageError, match=reason):
        decode_mask(content)


# --- resizing --------------------------------------------------------------------------------------------------------


def test_sizes_are_rounded_as_in_the_package() -> None:
    sizes = [(1, 1), (40, 6000), (6000, 40), (1101, 750), (480, 640), (333, 777), (1023, 1025)]
    for size_hw in sizes:
        for side_px in (128, 512, 1024):
            expected_hw = ResizeLongestSide.get_preprocess_shape(*size_hw, side_px)
            assert resized_size_hw(size_hw, side_px) == expected_hw, size_hw


def test_a_side_never_becomes_zero() -> None:
    assert resized_size_hw((1, 6000), 512) == (1, 512)  # the package would round 0.085 to 0


def test_pixels_are_resized_as_in_the_package() -> None:
    image = np.random.default_rng(1).integers(0, 256, (90, 61, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_longest_side(image, 128), ResizeLongestSide(128).apply_image(image))
