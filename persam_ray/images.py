"""Encoded photos to RGB pixels, upright, and resized for SAM; no torch here, so that decoding workers stay light.

A 3000 x 4000 JPEG (4 MB) comes in, 36 MB of RGB exist for a moment, 768 x 1024 x 3 bytes (2.4 MB) go out.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from persam_ray.errors import PersamRayError
from persam_ray.types import BoolArray, ByteArray, as_binary_mask

MAX_PIXELS = 2**27
"""Photos of more pixels (134 megapixels: 400 MB as RGB) are refused by their header, before decoding."""

Image.MAX_IMAGE_PIXELS = None  # Pillow's own guard, which does not say the size

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")


FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
"""What a photo may be, whatever its name. Pillow knows more: for PostScript it would run a program."""


class BadImageError(PersamRayError, ValueError):
    """The bytes are not a photo that can be used; the message says why, for the row's `error` column."""


def decode_image(encoded: bytes) -> ByteArray:
    """Return the photo as (h, w, 3) uint8 RGB: `decode_photo`, which see, as an array.

    Raises:
        BadImageError: Empty, not an image, truncated, or more than MAX_PIXELS.
    """
    return np.asarray(decode_photo(encoded))


def decode_photo(encoded: bytes) -> Image.Image:
    """Return the photo in RGB, upright by its EXIF orientation, as Pillow holds it: to resize it, it needs no array.

    Raises:
        BadImageError: Empty, not an image, truncated, or more than MAX_PIXELS.
    """
    if not encoded:
        raise BadImageError("the file is empty (0 bytes)")
    with _image_errors(encoded):
        return as_photo(open_image(encoded))


def as_photo(image: Image.Image) -> Image.Image:
    """Return an image that Pillow has opened in RGB, upright by its EXIF orientation.

    An animation gives its first frame; 16-bit samples are reduced to 8 by their high byte; transparent pixels lie on
    white, as viewers show them.

    Raises:
        BadImageError: Truncated, damaged, closed, or more than MAX_PIXELS.
    """
    with _image_errors():
        return _as_rgb(_upright(image))


def decode_mask(encoded: bytes) -> BoolArray:
    """Return a mask image as (h, w) bool: `as_mask`.

    Raises:
        BadImageError: Not an image, or more than MAX_PIXELS.
    """
    with _image_errors(encoded):
        return as_mask(open_image(encoded))


def as_mask(image: Image.Image) -> BoolArray:
    """Return a mask that Pillow has opened as (h, w) bool, upright by its EXIF orientation as its photo is.

    True where any channel is not zero, or the palette index is not; never where alpha is zero. In a JPEG, whose
    compression leaves specks of gray in the background, only pixels brighter than half of the brightest are True.
    Pillow forgets that an image was a JPEG when it converts or crops it.

    Raises:
        BadImageError: Truncated, damaged, closed, or more than MAX_PIXELS.
    """
    is_jpeg = image.format in {"JPEG", "MPO"}
    with _image_errors():
        image = _upright(image)
        samples = np.asarray(image)
    if image.mode in {"LA", "RGBA"}:
        return as_binary_mask(samples[..., :-1]) & (samples[..., -1] > 0)
    return as_binary_mask(samples > samples.max() / 2 if is_jpeg else samples)


def resized_size_hw(original_hw: tuple[int, int], image_size_px: int) -> tuple[int, int]:
    """Return the size after the longest side became `image_size_px`, as SAM's ResizeLongestSide rounds it."""
    scale = image_size_px / max(original_hw)
    height, width = (max(1, int(side * scale + 0.5)) for side in original_hw)
    return height, width


def resize_longest_side(image_hw3: ByteArray, image_size_px: int) -> ByteArray:
    """Resize for SAM: Pillow's bilinear filter with antialiasing, as in the package."""
    return resize(image_hw3, resized_size_hw((image_hw3.shape[0], image_hw3.shape[1]), image_size_px))


def fitted_size_hw(original_hw: tuple[int, int], shorter_px: int, longer_px: int) -> tuple[int, int]:
    """Return the size after the shorter side became one limit or the longer side the other, whichever is smaller."""
    scale = min(shorter_px / min(original_hw), longer_px / max(original_hw))
    return max(1, round(original_hw[0] * scale)), max(1, round(original_hw[1] * scale))


def resize(image_hw3: ByteArray, size_hw: tuple[int, int]) -> ByteArray:
    """Resize with Pillow's bilinear filter: antialiased, which torchvision's own resizing is not."""
    return resize_photo(Image.fromarray(image_hw3), size_hw)


def resize_photo(photo: Image.Image, size_hw: tuple[int, int]) -> ByteArray:
    """Resize what `decode_photo` has returned, to an array, by the same filter."""
    return np.asarray(photo.resize((size_hw[1], size_hw[0]), Image.Resampling.BILINEAR))


def open_image(encoded: bytes) -> Image.Image:
    """Read a header; pixels are decoded later.

    Raises:
        BadImageError: More than MAX_PIXELS.
    """
    image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    _check_size(image)
    return image


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise BadImageError(
            f"{image.width} x {image.height} pixels is more than the {MAX_PIXELS / 1e6:.0f} megapixels allowed"
        )


@contextmanager
def _image_errors(encoded: bytes = b"") -> Iterator[None]:
    """Turn what Pillow's decoders raise (OSError, SyntaxError, struct.error, ...) into a BadImageError.

    Pillow's warnings, of odd EXIF for one, are left out.

    Args:
        encoded: Content of the file, for the message; empty once Pillow has opened it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except BadImageError:
        raise
    except Exception as error:
        raise BadImageError(_reason(error, encoded)) from error


def _upright(image: Image.Image) -> Image.Image:
    """Undo the EXIF orientation; ImageOps.exif_transpose also rewrites the other tags, and fails where one is odd."""
    _check_size(image)
    image.load()  # Pillow turns TIFFs itself, and clears their tag, while loading
    method = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if method is None else image.transpose(method)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit and 32-bit grayscale: Pillow would clip at 255
        samples = np.asarray(image).astype(np.float32)
        scale = 256 if image.mode.startswith("I;16") or samples.max(initial=0) > 255 else 1
        return Image.fromarray(np.clip(samples / scale, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _reason(error: Exception, encoded: bytes) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"not an image that can be read ({len(encoded)} bytes, starting with {encoded[:8]!r})"
    return f"the image is damaged: {str(error) or type(error).__name__}"
