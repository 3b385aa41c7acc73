"""Files made to run code or to fill the memory: refused by what they are, whatever their name, in bounded memory."""

import io
import json
import os
import pickle
import resource
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

from persam_ray.cli.command_line import parse
from persam_ray.cluster.models import _read_any, _read_detector
from persam_ray.compact_sam.training import SamTrainingSettings
from persam_ray.data import shard
from persam_ray.data.checkpoints import read_sam
from persam_ray.data.dataset import DatasetError
from persam_ray.data.files import FileShard, ImageFile
from persam_ray.data.listing import open_dataset
from persam_ray.data.parquet import ParquetShard, read_tables
from persam_ray.data.schema import PREDICTIONS, SchemaError
from persam_ray.data.shard import Shard
from persam_ray.data.storage import StorageError, read_json
from persam_ray.data.webdataset import TarShard
from persam_ray.errors import CheckpointError, ConfigError
from persam_ray.images import BadImageError, decode_image
from persam_ray.options.label import LabelConfig
from persam_ray.training.compact_sam import SamTrainingJob, _build
from persam_ray.training.epochs import Course, TrainingError, read_state
from tests.encoded_images import encoded, plain_jpeg, png_by_hand

MEMORY_BYTES = 60 * 2**20
"""What refusing a bomb may take. Unpacked, the smallest takes ten times as much."""


class Code:
    """Unpickles by running a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch '{self.mark}'",)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that is there once hostile code ran."""
    return tmp_path / "the code ran"


# --- checkpoints -----------------------------------------------------------------------------------------------------


def saved(content: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def zipped(pickled: bytes) -> bytes:
    """Write a zip as torch does, by hand: torch.save would not write this pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3")
        archive.writestr("archive/byteorder", "little")
    return buffer.getvalue()


def tarred(pickled: bytes) -> bytes:
    """Write a tar as torch did before version 0.1.10."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("storages", "tensors", "pickle"):
            tar.addfile(sized(name, len(pickled)), io.BytesIO(pickled))
    return buffer.getvalue()


def object_array(code: Code) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.array([code], dtype=object))
    return buffer.getvalue()


PICKLES: dict[str, Callable[[Code], bytes]] = {
    "torch zip": lambda code: saved({"a": code}),
    "torch legacy": lambda code: saved({"a": code}, _use_new_zipfile_serialization=False),
    "zip by hand": lambda code: zipped(pickle.dumps(code, 2)),
    "torch tar": lambda code: tarred(pickle.dumps(code, 2)),
    "pickle 0": lambda code: pickle.dumps(code, 0),
    "pickle 2": lambda code: pickle.dumps({"model": code}, 2),
    "pickle 5": lambda code: pickle.dumps(code, 5),
    "safetensors header": lambda code: struct.pack("<Q", 8) + b'{"a": 1}' + pickle.dumps(code),
    "NumPy": object_array,
}


def read_start_of_sam(uri: str) -> object:
    course = Course(1, 1, "", {})
    return _build(SamTrainingJob("mobilenetv3_small_100", uri, 128, SamTrainingSettings(), "float32", 1, course))


LOADERS: dict[str, tuple[str, Callable[[str], object]]] = {
    "--sam": ("sam.pth", read_sam),
    "--sam, safetensors": ("sam.safetensors", read_sam),
    "--checkpoint": ("mask_rcnn.safetensors", _read_detector),
    "--start of Mask R-CNN": ("start.pt", _read_any),
    "--start of SAM": ("start.safetensors", read_start_of_sam),
    "--resume": ("state.pt", lambda uri: read_state(Path(uri).parent)),
}


@pytest.mark.parametrize("form", PICKLES)
@pytest.mark.parametrize("option", LOADERS)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_checkpoint_never_runs(tmp_path: Path, mark: Path, option: str, form: str) -> None:
    name, load = LOADERS[option]
    (tmp_path / name).write_bytes(PICKLES[form](Code(mark)))
    with pytest.raises((CheckpointError, TrainingError), match=r"refused|neither|not a readable|damaged"):
        load(str(tmp_path / name))
    assert not mark.exists()


def test_the_code_would_run(tmp_path: Path, mark: Path) -> None:
    """The test above is about something: torch itself runs it where it is allowed to."""
    (tmp_path / "a.pth").write_bytes(PICKLES["torch zip"](Code(mark)))
    torch.load(tmp_path / "a.pth", weights_only=False)
    assert mark.exists()


def test_a_few_bytes_do_not_unfold_to_a_terabyte(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(saved({"a": torch.zeros(1).expand(10**6, 10**6)}))
    with pytest.raises(CheckpointError, match="its tensors are more than 4 times as large as the file"):
        _read_any(str(tmp_path / "a.pth"))


# --- Parquet ---------------------------------------------------------------------------------------------------------

READS: dict[str, Callable[[ParquetShard], object]] = {
    "keys": lambda shard: list(shard.image_ids()),
    "rows": lambda shard: [table.to_pylist() for table in shard.read()],
    "annotated": lambda shard: list(shard.annotated()),
    "found": lambda shard: shard.find("a"),
    "some": lambda shard: [table.to_pylist() for table in shard.only({"a"}).read()],
    "predictions": lambda shard: [table.to_pylist() for table in read_tables(shard.uri, PREDICTIONS)],
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("column", ["image_id", "image", "annotations", "instances", "error"])
def test_code_in_a_parquet_column_never_runs(tmp_path: Path, mark: Path, column: str, read: str) -> None:
    """Ray registers a type with Arrow whose values are unpickled when a row is looked at."""
    pickled = pa.array([pickle.dumps(Code(mark))], pa.large_binary())
    hostile = pa.ExtensionArray.from_storage(ArrowPythonObjectType(), pickled)
    sound = {"image_id": ["a"], "image": [b""], "status": ["ok"]}
    if column in {"annotations", "instances"}:
        hostile = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), hostile)
    pq.write_table(pa.table(sound | {column: hostile}), tmp_path / "a.parquet")
    with pytest.raises(SchemaError, match=f"column '{column}' is of the type .*, which could run code"):
        READS[read](ParquetShard(str(tmp_path / "a.parquet")))
    assert not mark.exists()


def test_bytes_that_are_no_text_are_refused_as_a_key(tmp_path: Path) -> None:
    offsets = pa.array([0, 1, 3], pa.int32()).buffers()[1]
    keys = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"a\xff\xfe"))
    pq.write_table(pa.table({"image_id": keys, "image": [b"", b""]}), tmp_path / "a.parquet")
    for read in ("keys", "rows"):
        with pytest.raises(SchemaError, match=r"a\.parquet: column 'image_id' is damaged"):
            READS[read](ParquetShard(str(tmp_path / "a.parquet")))


# --- tars, COCO ------------------------------------------------------------------------------------------------------


def sized(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    return member


def sparse(name: str, size: int) -> tarfile.TarInfo:
    """A member without a byte in the tar that reads as `size` zeros."""
    member = sized(name, 0)
    fields = {"major": "0", "minor": "1", "name": name, "size": str(size), "numblocks": "1", "map": "0,0"}
    member.pax_headers = {f"GNU.sparse.{field}": value for field, value in fields.items()}
    return member


def errors_of(shard: Shard) -> dict[str, str | None]:
    return {row["image_id"]: row["error"] for table in shard.read() for row in table.to_pylist()}


def test_a_tar_bomb_and_links_are_rows_and_the_other_photos_are_read(tmp_path: Path) -> None:
    jpeg = plain_jpeg()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for kind, name in ((tarfile.SYMTYPE, "symbolic.jpg"), (tarfile.LNKTYPE, "hard.jpg")):
            link = sized(name, 0)
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
        tar.addfile(sparse("bomb.jpg", 2**40))
        tar.addfile(sized("../../outside.jpg", len(jpeg)), io.BytesIO(jpeg))
    started_s = time.perf_counter()
    errors = errors_of(TarShard("a", str(tmp_path / "a.tar")))
    assert time.perf_counter() - started_s < 2
    assert errors.pop("a/../../outside") is None
    assert errors.pop("a/bomb") == "the file is larger than the 134 MB allowed"
    assert set(errors) == {"a/symbolic", "a/hard"}
    assert all(str(error).startswith("a link to another member") for error in errors.values())
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_of_a_file_that_is_too_large_no_more_is_read_than_tells_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "MAX_FILE_BYTES", 2**20)  # 134 MB take a second
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(2**40)
    (table,) = FileShard((ImageFile("huge", str(tmp_path / "huge.jpg")),)).read()
    assert table.to_pylist()[0]["error"] == "the file is larger than the 134 MB allowed"
    assert table["image"].to_pylist() == [b""]


def write_coco(folder: Path, *names: str) -> str:
    images = [{"id": index, "file_name": name, "height": 4, "width": 5} for index, name in enumerate(names)]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "\ud800"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    return str(folder / "instances.json")


def test_a_coco_file_does_not_choose_what_else_of_the_machine_is_read(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("secret.jpg", "photos/a.jpg"):
        (tmp_path / name).write_bytes(plain_jpeg())
    uri = write_coco(tmp_path, "a.jpg", "../secret.jpg", "x/../../secret.jpg", "http://127.0.0.1:9/a.jpg", "\udc80.jpg")
    dataset = open_dataset(str(tmp_path / "photos"), annotations=uri)
    errors = {name: error for shard in dataset.shards for name, error in errors_of(shard).items()}
    assert errors["a.jpg"] is None
    for name in ("../secret.jpg", "x/../../secret.jpg"):
        assert errors[name] == "the file_name leads out of the folder of the images"
    assert "Protocol not known" in str(errors["http://127.0.0.1:9/a.jpg"])
    assert "not found" in str(errors[r"\udc80.jpg"])


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_json_of_endless_depth_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises((StorageError, DatasetError), match="not valid JSON"):
        read_json(str(tmp_path / "a.json"))


# --- YAML ------------------------------------------------------------------------------------------------------------

LAUGHS = ", ".join(f"&{name} [{', '.join([f'*{of}'] * 10)}]" for of, name in zip("abcdefghi", "bcdefghij", strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "images: !!python/object/apply:os.system ['touch ran']",
        "images: !!python/object/new:os.system ['touch ran']",
        f"images: [&a [x, x, x, x, x, x, x, x, x, x], {LAUGHS}]",
        "images: &a [*a]",
        "images: " + "[" * 5_000,
    ],
    ids=["apply", "new", "ten billion laughs", "itself", "deep"],
)
def test_yaml_runs_nothing_and_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(text)
    before_bytes = peak_bytes()
    with pytest.raises(ConfigError, match=r"^--config a\.yaml: .{1,300}$"):
        parse(LabelConfig, ["--config", "a.yaml", "--output", "o"])
    assert peak_bytes() - before_bytes < MEMORY_BYTES
    assert not Path("ran").exists()


# --- images ----------------------------------------------------------------------------------------------------------


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def packed_zeros(megabytes: int = 600) -> bytes:
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(megabytes)) + packer.flush()


ZEROS = packed_zeros()
SIDE = 60_000


def tag(number: int, kind: int, count: int, value: int) -> bytes:
    return struct.pack("<HHII", number, kind, count, value)


def tiff(*tags: bytes, data: bytes = b"") -> bytes:
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + b"".join(tags) + bytes(4) + data


def plain_tiff(side: int, *more: bytes, compression: int = 1, data: bytes = b"") -> bytes:
    size = [tag(256, 4, 1, side), tag(257, 4, 1, side), tag(258, 3, 1, 8), tag(259, 3, 1, compression)]
    return tiff(*size, tag(262, 3, 1, 1), *more, data=data)


def many_large_tags() -> bytes:
    """3,000 tags that all name the same megabyte."""
    start = 8 + 2 + 12 * 3000 + 4
    return tiff(*(tag(1000 + index, 7, 2**20, start) for index in range(3000)), data=bytes(2**20))


def png(extra: tuple[bytes, bytes] | None = None, side: int = 4) -> bytes:
    return png_by_hand(side, side, [bytes(4 * 3)] * 4, bits=8, color=2, extra=extra)


def jpeg_with_exif(block: bytes) -> bytes:
    jpeg = plain_jpeg()
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block + jpeg[2:]


def frames(file_format: str, count: int) -> bytes:
    first, *others = (Image.new("L", (2, 2), index % 251) for index in range(count))
    return encoded(first, file_format, save_all=True, append_images=others)


WEBP_HEADER = b"WEBPVP8X\x0a\0\0\0\x02\0\0\0" + 2 * (2**14 - 2).to_bytes(3, "little") + b"ANIM\x06\0\0\0" + bytes(6)
TOO_MANY = "60000 x 60000 pixels is more than the 134 megapixels allowed"
GIF_HEADER = b"GIF89a" + struct.pack("<HHBBBcHHHHB", SIDE, SIDE, 0, 0, 0, b",", 0, 0, SIDE, SIDE, 0)
TILES = [tag(322 + index, 4, 1, value) for index, value in enumerate((SIDE, SIDE, 8, 9))]
BOMBS: dict[str, tuple[bytes, str]] = {
    "PNG": (png(side=SIDE), TOO_MANY),
    "TIFF": (plain_tiff(SIDE, compression=8), TOO_MANY),
    "GIF": (GIF_HEADER + b"\2\1\0", TOO_MANY),
    "BMP": (b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, SIDE, SIDE, 1, 24, *[0] * 6), TOO_MANY),
    "WebP": (b"RIFF" + struct.pack("<I", len(WEBP_HEADER)) + WEBP_HEADER, "damaged|megapixels"),
    "tiles": (plain_tiff(64, *TILES), "damaged"),
    "iCCP": (png((b"iCCP", b"a\0\0" + ZEROS)), "too large"),
    "zTXt": (png((b"zTXt", b"a\0\0" + ZEROS)), "too large"),
    "iTXt": (png((b"iTXt", b"a\0\x01\0\0\0" + ZEROS)), "too large"),
    "PostScript": (encoded(Image.new("L", (2, 2)), "EPS"), "not an image that can be read"),
}  # fmt: skip
HARMLESS: dict[str, bytes] = {
    "too many samples": png_by_hand(4, 4, [bytes(12)] * 4000, bits=8, color=2),
    "EXIF of 3 GB in a PNG": png((b"eXIf", many_large_tags())),
    "EXIF that is its own child": jpeg_with_exif(tiff(tag(0x8769, 4, 1, 8), tag(0x0112, 3, 1, 6))),
    "2,000 frames in a GIF": frames("GIF", 2000),
    "500 frames in a PNG": frames("PNG", 500),
    "500 pages in a TIFF": frames("TIFF", 500),
    "frames that a PNG only claims": png((b"acTL", struct.pack(">II", 2**31 - 1, 0))),
}


@pytest.mark.parametrize("name", BOMBS)
def test_an_image_bomb_is_refused_in_little_memory_and_time(name: str) -> None:
    content, reason = BOMBS[name]
    before_bytes, started_s = peak_bytes(), time.perf_counter()
    with pytest.raises(BadImageError, match=reason):
        decode_image(content)
    assert time.perf_counter() - started_s < 2
    assert peak_bytes() - before_bytes < MEMORY_BYTES


@pytest.mark.parametrize("name", HARMLESS)
def test_what_lies_beside_the_first_frame_costs_nothing(name: str) -> None:
    before_bytes, started_s = peak_bytes(), time.perf_counter()
    assert max(decode_image(HARMLESS[name]).shape) <= 5
    assert time.perf_counter() - started_s < 2
    assert peak_bytes() - before_bytes < MEMORY_BYTES
