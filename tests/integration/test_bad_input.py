"""Real files that are not what they seem: each gives one row; what cannot work at all ends in one line."""

import io
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.conftest import scene
from tests.integration.conftest import S3, Job, JobHere, rows_of, save_photos

pytestmark = pytest.mark.ray


def encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def huge_png(side: int) -> bytes:
    """A valid header for side x side pixels, and pixel data that would take 2.7 GB to hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 10_000))
        + chunk(b"IEND", b"")
    )


def rotated_jpeg(photo: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    return encoded(photo, "JPEG", exif=exif)


PHOTO = Image.fromarray(scene(48, 72))
JPEG, PNG = encoded(PHOTO, "JPEG"), encoded(PHOTO, "PNG")
SIXTEEN_BIT = Image.fromarray((np.arange(48 * 72).reshape(48, 72) * 18).astype(np.uint16))

GOOD: dict[str, tuple[bytes, tuple[int, int]]] = {
    "cmyk.jpg": (encoded(PHOTO.convert("CMYK"), "JPEG"), (48, 72)),
    "sixteen-bit.png": (encoded(SIXTEEN_BIT, "PNG"), (48, 72)),
    "palette.png": (encoded(PHOTO.convert("P"), "PNG"), (48, 72)),
    "gray.png": (encoded(PHOTO.convert("L"), "PNG"), (48, 72)),
    "rgba.png": (encoded(PHOTO.convert("RGBA"), "PNG"), (48, 72)),
    "animated.gif": (encoded(PHOTO, "GIF", save_all=True, append_images=[PHOTO.rotate(90)]), (48, 72)),
    "animated.webp": (encoded(PHOTO, "WEBP", save_all=True, append_images=[PHOTO.rotate(90)]), (48, 72)),
    "exif-rotated.jpg": (rotated_jpeg(PHOTO), (72, 48)),
    "one-pixel.png": (encoded(Image.new("RGB", (1, 1), "red"), "PNG"), (1, 1)),
    "long.png": (encoded(Image.fromarray(scene(40, 6000)), "PNG"), (40, 6000)),
    "with space.jpg": (JPEG, (48, 72)),
    "ünïcödé-写真.jpg": (JPEG, (48, 72)),
    'quote\'s "double".jpg': (JPEG, (48, 72)),
    "star[1]*?#%20.jpg": (JPEG, (48, 72)),
    "UPPER.JPG": (JPEG, (48, 72)),
}

BAD: dict[str, tuple[bytes, str]] = {
    "zero-bytes.jpg": (b"", "empty"),
    "text.jpg": (b"this is no picture\n" * 40, "not an image"),
    "truncated.jpg": (JPEG[: len(JPEG) // 2], "damaged"),
    "truncated.png": (PNG[: len(PNG) // 2], "damaged"),
    "huge.png": (huge_png(30_000), "30000 x 30000 pixels is more than the 134 megapixels allowed"),
}


@pytest.fixture(scope="module")
def odd_rows(
    job_here: JobHere, sam_file: str, reference: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, object]]:
    folder = tmp_path_factory.mktemp("odd names & 'quotes' [1]")
    for name, (content, _) in (GOOD | BAD).items():
        (folder / name).write_bytes(content)
    (folder / "vanished.jpg").symlink_to(folder / "nowhere.jpg")  # listed, and gone when it is read
    (folder / "notes.txt").write_text("not listed: no image suffix")
    output = tmp_path_factory.mktemp("out") / "run"
    finished = job_here(
        "label", "--images", str(folder), "--output", str(output), "--sam", sam_file, "--reference", f"disc={reference}"
    )
    assert finished.status == 3, finished.stderr  # complete, with failed photos
    assert f"{len(BAD) + 1} failed" in finished.stderr
    assert "1 failed: the file cannot be read" in finished.stderr  # grouped by reason
    return rows_of(output)


def test_rows_out_are_files_in(odd_rows: dict[str, dict[str, object]]) -> None:
    assert set(odd_rows) == {*GOOD, *BAD, "vanished.jpg"}


@pytest.mark.parametrize("name", GOOD)
def test_what_a_person_would_call_an_image_is_labeled(odd_rows: dict[str, dict[str, object]], name: str) -> None:
    row = odd_rows[name]
    assert (row["status"], row["error"]) == ("ok", None)
    assert (row["height"], row["width"]) == GOOD[name][1]


@pytest.mark.parametrize("name", BAD)
def test_what_is_none_fails_with_a_reason(odd_rows: dict[str, dict[str, object]], name: str) -> None:
    row = odd_rows[name]
    assert row["status"] == "failed"
    assert BAD[name][1] in str(row["error"])
    assert row["instances"] == []


def test_a_file_that_vanishes_after_listing_is_a_failed_row(odd_rows: dict[str, dict[str, object]]) -> None:
    assert odd_rows["vanished.jpg"]["status"] == "failed"
    assert "cannot be read" in str(odd_rows["vanished.jpg"]["error"])


# --- what ends the job before any model is loaded --------------------------------------------------------------------

Prepare = Callable[[Path], dict[str, str]]


def empty_folder(folder: Path) -> dict[str, str]:
    (folder / "empty").mkdir()
    return {"--images": str(folder / "empty")}


def no_folder(folder: Path) -> dict[str, str]:
    return {"--images": str(folder / "nowhere")}


def repeated_parquet_key(folder: Path) -> dict[str, str]:
    for shard in ("a", "b"):
        rows = [{"image_id": name, "image": JPEG} for name in (f"own-{shard}", "same")]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{shard}.parquet")
    return {"--images": str(folder)}


def repeated_tar_key(folder: Path) -> dict[str, str]:
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for name in ("a.jpg", "b.jpg", "a.png"):
            member = tarfile.TarInfo(name)
            member.size = len(JPEG)
            tar.addfile(member, io.BytesIO(JPEG))
    return {"--images": str(folder)}


def parquet_without_pixels(folder: Path) -> dict[str, str]:
    pq.write_table(pa.table({"image_id": ["a"], "url": ["http://nowhere"]}), folder / "a.parquet")
    return {"--images": str(folder)}


def unknown_layout(folder: Path) -> dict[str, str]:
    import torch

    torch.save({"fc.weight": torch.zeros(2, 2)}, folder / "other.pth")
    return {"--sam": str(folder / "other.pth")}


def no_checkpoint(_: Path) -> dict[str, str]:
    return {"--sam": "vit_x"}


def unwritable_output(folder: Path) -> dict[str, str]:
    (folder / "file").write_text("")
    return {"--output": str(folder / "file" / "below")}


def reference_of_other_size(folder: Path) -> dict[str, str]:
    PHOTO.save(folder / "photo.png")
    Image.new("L", (10, 10), 255).save(folder / "mask.png")
    return {"--reference": f"cup={folder / 'photo.png'},{folder / 'mask.png'}"}


def empty_reference(folder: Path) -> dict[str, str]:
    PHOTO.save(folder / "photo.png")
    Image.new("L", PHOTO.size, 0).save(folder / "mask.png")
    return {"--reference": f"cup={folder / 'photo.png'},{folder / 'mask.png'}"}


def malformed_reference(_: Path) -> dict[str, str]:
    return {"--reference": "cup.jpg"}


def wrong_fraction(_: Path) -> dict[str, str]:
    return {"--min-area-fraction": "7"}


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (empty_folder, "no images"),
        (no_folder, "not found"),
        (repeated_parquet_key, "two rows have the image_id 'same'"),
        (repeated_tar_key, "two rows have the image_id 'shard/a'"),
        (parquet_without_pixels, "has no column 'image'"),
        (unknown_layout, "unknown checkpoint layout"),
        (no_checkpoint, "no such checkpoint file, nor one of the names vit_b, vit_l, vit_h, mobile_sam"),
        (unwritable_output, "cannot be written"),
        (reference_of_other_size, "'cup' is 10 x 10 pixels, but its photo is 72 x 48"),
        (empty_reference, "is empty"),
        (malformed_reference, "must have the form CATEGORY=IMAGE,MASK"),
        (wrong_fraction, "--min-area-fraction must be between 0 and 1, but is 7"),
    ],
)
def test_what_cannot_work_ends_in_one_clear_line(
    job_here: JobHere, sam_file: str, reference: str, tmp_path: Path, prepare: Prepare, says: str
) -> None:
    save_photos(tmp_path / "photos", 1)
    (tmp_path / "case").mkdir()
    options = {
        "--images": str(tmp_path / "photos"),
        "--output": str(tmp_path / "out"),
        "--sam": sam_file,
        "--reference": f"disc={reference}",
    } | prepare(tmp_path / "case")
    finished = job_here("label", *(text for pair in options.items() for text in pair))
    one_line_error(finished.status, finished.stderr, says)
    assert not (tmp_path / "out" / "predictions").exists()


def test_a_process_that_cannot_work_ends_with_status_1_and_the_line_of_a_worker(
    job: Job, sam_file: str, reference: str, tmp_path: Path
) -> None:
    """Its own Ray, whose worker finds the error, adds nothing to the line."""
    options = ("--output", str(tmp_path / "out"), "--sam", sam_file, "--reference", f"disc={reference}")
    (tmp_path / "photos").mkdir()
    finished = job("label", *repeated_parquet_key(tmp_path / "photos").popitem(), *options)
    one_line_error(finished.status, finished.stderr, "two rows have the image_id 'same'")
    assert finished.left_behind == []


def one_line_error(status: int, stderr: str, says: str) -> None:
    assert status == 1
    assert stderr.startswith("error: "), stderr
    assert stderr.count("\n") == 1, stderr
    assert says in stderr


@pytest.mark.s3
def test_a_missing_bucket_is_named(job_here: JobHere, s3: S3, sam_file: str, reference: str, tmp_path: Path) -> None:
    finished = job_here(
        "label", "--images", "s3://no-such-bucket/photos", "--output", str(tmp_path / "out"), "--sam", sam_file,
        "--reference", f"disc={reference}", env=s3.env,
    )  # fmt: skip
    one_line_error(finished.status, finished.stderr, "no-such-bucket")


@pytest.mark.s3
def test_a_wrong_credential_is_said_to_be_one(
    job_here: JobHere, s3: S3, sam_file: str, reference: str, tmp_path: Path
) -> None:
    s3.client().create_bucket(Bucket="guarded")
    s3.require_credentials()
    try:
        finished = job_here(
            "label", "--images", "s3://guarded/photos", "--output", str(tmp_path / "out"), "--sam", sam_file,
            "--reference", f"disc={reference}", env=s3.env,
        )  # fmt: skip
    finally:
        s3.trust_everyone()
    one_line_error(finished.status, finished.stderr, "access denied")


@pytest.mark.s3
def test_an_empty_prefix_is_said_to_be_one(
    job_here: JobHere, s3: S3, sam_file: str, reference: str, tmp_path: Path
) -> None:
    s3.client().create_bucket(Bucket="empty")
    finished = job_here(
        "label", "--images", "s3://empty/photos", "--output", str(tmp_path / "out"), "--sam", sam_file,
        "--reference", f"disc={reference}", env=s3.env,
    )  # fmt: skip
    one_line_error(finished.status, finished.stderr, "s3://empty/photos: no images")


def test_an_unknown_option_is_named_and_help_is_offered() -> None:
    command = [sys.executable, "jobs/label.py", "--imagse", "x", "--output", "y"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 2
    assert "--imagse" in finished.stdout + finished.stderr
