"""Encoded pictures for tests: by Pillow where it can write them, by hand where it cannot."""

import io
import struct
import zlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from PIL import Image


def encoded(image: Image.Image | npt.NDArray[np.generic], file_format: str = "PNG", **options: object) -> bytes:
    """Encode a picture as Pillow does; options are those of Image.save."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, file_format, **options)
    return buffer.getvalue()


def plain_jpeg(height: int = 4, width: int = 5, gray: int = 128) -> bytes:
    return encoded(np.full((height, width, 3), gray, np.uint8), "JPEG")


def png_by_hand(
    width: int, height: int, rows: Iterable[bytes], *, bits: int, color: int, extra: tuple[bytes, bytes] | None = None
) -> bytes:
    """Write a PNG from its specification.

    Args:
        width: In pixels.
        height: In pixels.
        rows: Samples of each row, big-endian, without the filter byte.
        bits: Bits of each sample.
        color: 0 gray, 2 RGB, 6 RGBA.
        extra: Type and content of one more chunk.
    """
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(b"\0" + row) for row in rows) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    chunks = [(b"IHDR", header), *([extra] if extra else []), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def huge_png(side_px: int = 30_000) -> bytes:
    """Return a whole black 1-bit PNG: half a megabyte that Pillow would unpack to 900 MB."""
    row = b"\0" * ((side_px + 7) // 8)
    return png_by_hand(side_px, side_px, (row for _ in range(side_px)), bits=1, color=0)
