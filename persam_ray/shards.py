"""Units of reading: each yields the rows of its part of a dataset, in tables of at most 16 photos (64 MB at 4 MB each).

A shard is small (names, no pixels), travels to a worker and reads there. A file that cannot be read becomes a row that
says so.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from persam_ray.annotations import BadAnnotationError, from_coco, from_index_map
from persam_ray.images import IMAGE_SUFFIXES
from persam_ray.schema import IMAGES, READ, VERSION, SchemaError, check_inert, check_text, conform
from persam_ray.storage import StorageError, filesystem, read_many, storage_errors

ROWS_PER_TABLE = 16
MAX_FILE_BYTES = 2**27  # 134 MB: no photo of up to 134 megapixels needs more; 16 of them fit into one Arrow table
TOO_LARGE = f"the file is larger than the {MAX_FILE_BYTES / 1e6:.0f} MB allowed"
KEYS_AND_ANNOTATIONS = pa.schema([IMAGES.field("image_id"), IMAGES.field("annotations")])


class Shard(Protocol):
    """A part of a dataset."""

    def read(self, *, pixels: bool = True) -> Iterator[pa.Table]:
        """Yield the rows as tables of the READ schema; without pixels, `image` is null and photos are not fetched."""
        ...

    def image_ids(self) -> Iterator[str]:
        """Yield the keys alone, without fetching pixels where the format allows it."""
        ...

    def versions(self) -> Iterator[tuple[str, str]]:
        """Yield key and version (storage.list_versions) of each image: of its own file, or of the shard's."""
        ...

    def annotated(self) -> Iterator[tuple[str, frozenset[str]]]:
        """Yield key and annotated categories of each image."""
        ...

    def find(self, image_id: str) -> dict[str, Any] | None:
        """Return the row of a key as plain values; None if it is not in this shard, or cannot be annotated."""
        ...

    def only(self, image_ids: Set[str]) -> Self:
        """Return the shard reduced to these keys; it may hold none of them."""
        ...


# --- files -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CocoTruth:
    """What a COCO file says of one image: its size and its annotations, as in the JSON."""

    size_hw: tuple[int, int]
    annotations: tuple[Mapping[str, Any], ...]
    category_names: Mapping[int, str]


@dataclass(frozen=True)
class ImageFile:
    """One photo in a file of its own.

    Attributes:
        image_id: Its key.
        uri: Where it lies; None where it must not be read.
        truth: URI of a DeepFashion `segm` map, COCO's entry, or None.
        version: As listed (storage.list_versions).
    """

    image_id: str
    uri: str | None
    truth: str | CocoTruth | None = None
    version: str = ""


@dataclass(frozen=True)
class FileShard:
    """A run of image files, in the order of their keys."""

    files: tuple[ImageFile, ...]

    def read(self, *, pixels: bool = True) -> Iterator[pa.Table]:
        """Yield the rows; photos and maps of a table are fetched together."""
        for start in range(0, len(self.files), ROWS_PER_TABLE):
            files = self.files[start : start + ROWS_PER_TABLE]
            photos = [file.uri for file in files if pixels and file.uri is not None]
            fetched = _fetched([*photos, *(file.truth for file in files if isinstance(file.truth, str))])
            yield pa.Table.from_pylist([_file_row(file, fetched, pixels=pixels) for file in files], schema=READ)

    def image_ids(self) -> Iterator[str]:
        """Yield the keys."""
        return (file.image_id for file in self.files)

    def versions(self) -> Iterator[tuple[str, str]]:
        """Yield key and version."""
        return ((file.image_id, file.version) for file in self.files)

    def annotated(self) -> Iterator[tuple[str, frozenset[str]]]:
        """Yield key and categories, reading a `segm` map at a time."""
        for file in self.files:
            if isinstance(file.truth, CocoTruth):
                names = file.truth.category_names
                kept = (row for row in file.truth.annotations if not row.get("iscrowd"))
                yield file.image_id, frozenset(_coco_name(row, names) for row in kept)
            elif file.truth is not None:
                annotations, _, _ = _truth_of(file, _fetched([file.truth]))
                yield file.image_id, frozenset(row["category"] for row in annotations or ())

    def find(self, image_id: str) -> dict[str, Any] | None:
        """Read the one file of that key."""
        for table in self.only({image_id}).read():
            row: dict[str, Any] = table.to_pylist()[0]
            return row
        return None

    def only(self, image_ids: Set[str]) -> Self:
        """Return the shard with the files of these keys."""
        return replace(self, files=tuple(file for file in self.files if file.image_id in image_ids))


def _coco_name(annotation: Mapping[str, Any], names: Mapping[int, str]) -> str:
    """Return an annotation's category; empty where it has none, which reading the image will say."""
    category_id = annotation.get("category_id")
    return names.get(category_id, "") if isinstance(category_id, int) else ""


Fetched = Mapping[str, bytes | StorageError]
"""Contents by URI."""


def _fetched(uris: Sequence[str]) -> Fetched:
    """Return the files' contents, cut off right behind what is allowed."""
    return dict(zip(uris, read_many(uris, MAX_FILE_BYTES + 1), strict=True))


def _file_row(file: ImageFile, fetched: Fetched, *, pixels: bool) -> dict[str, Any]:
    annotations, size_hw, error = _truth_of(file, fetched)
    photo = fetched[file.uri] if pixels and file.uri is not None else None
    truth = fetched.get(file.truth) if isinstance(file.truth, str) else None
    is_unread = isinstance(photo, StorageError) or isinstance(truth, StorageError)
    if pixels and file.uri is None:
        error = "the file_name leads out of the folder of the images"
    elif isinstance(photo, StorageError):
        error = f"the file cannot be read: {photo}"
    elif photo is not None and len(photo) > MAX_FILE_BYTES:
        photo, error = b"", TOO_LARGE
    height, width = size_hw or (None, None)
    return {
        "image_id": file.image_id,
        "image": b"" if pixels and not isinstance(photo, bytes) else photo,
        "height": height,
        "width": width,
        "annotations": annotations,
        "error": error,
        "version": None if is_unread else file.version,
    }


def _truth_of(file: ImageFile, maps: Fetched) -> tuple[list[dict[str, Any]] | None, tuple[int, int] | None, str | None]:
    """Return a file's annotations, the size that they speak of, and what is wrong with them."""
    try:
        if isinstance(file.truth, CocoTruth):
            size_hw = file.truth.size_hw
            return from_coco(file.truth.annotations, file.truth.category_names, size_hw), size_hw, None
        if file.truth is not None:
            encoded = maps[file.truth]
            if isinstance(encoded, StorageError):
                return None, None, f"the annotation cannot be read: {encoded}"
            annotations, size_hw = from_index_map(encoded)
            return annotations, size_hw, None
    except BadAnnotationError as error:
        return None, None, str(error)
    return None, None, None


# --- Parquet ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ParquetShard:
    """One Parquet file with the columns of IMAGES; all of its rows, or those of some keys."""

    uri: str
    kept: frozenset[str] | None = None
    version: str = ""

    def read(self, *, pixels: bool = True) -> Iterator[pa.Table]:
        """Yield the rows, a few at a time whatever the size of the file's row groups."""
        for table in self._tables([name for name in IMAGES.names if pixels or name != "image"]):
            whole = table if pixels else table.append_column("image", pa.nulls(len(table), pa.binary()))
            rows = conform(whole, IMAGES, self.uri)
            rows = rows.append_column("error", pa.nulls(len(rows), pa.string()))
            yield rows.append_column(VERSION, pa.array([self.version] * len(rows), VERSION.type))

    def image_ids(self) -> Iterator[str]:
        """Yield the keys; only their column is read.

        Raises:
            SchemaError: The file lacks a column, or a key is null.
        """
        self._check_columns()
        for table in self._tables(["image_id"], rows=65_536):
            yield from self._keys(table)

    def versions(self) -> Iterator[tuple[str, str]]:
        """Yield each key with the file's version."""
        return ((image_id, self.version) for image_id in self.image_ids())

    def annotated(self) -> Iterator[tuple[str, frozenset[str]]]:
        """Yield key and categories; pixels are not read.

        Raises:
            SchemaError: The file lacks a column or has one of another type, or a key is null.
        """
        self._check_columns()
        for table in self._tables(["image_id", "annotations"], rows=4096):
            column = conform(table, KEYS_AND_ANNOTATIONS, self.uri)["annotations"].to_pylist()
            for image_id, rows in zip(self._keys(table), column, strict=True):
                kept = (row["category"] for row in rows or () if row and row["category"] and not row["iscrowd"])
                yield image_id, frozenset(kept)

    def find(self, image_id: str) -> dict[str, Any] | None:
        """Read the row of that key; pixels of other row groups are not read."""
        with storage_errors(self.uri), open_parquet(self.uri) as file:
            for group in range(file.num_row_groups):
                if image_id not in file.read_row_group(group, ["image_id"])["image_id"].to_pylist():
                    continue
                for batch in file.iter_batches(ROWS_PER_TABLE, [group]):
                    keys = batch["image_id"].to_pylist()
                    if image_id in keys:
                        found = pa.Table.from_batches([batch.slice(keys.index(image_id), 1)])
                        row: dict[str, Any] = conform(found, IMAGES, self.uri).to_pylist()[0]
                        return row | {"error": None, "version": self.version}
        return None

    def only(self, image_ids: Set[str]) -> Self:
        """Return the shard reduced to these keys: pixels of row groups without any of them are not read."""
        return replace(self, kept=frozenset(image_ids))

    def _keys(self, table: pa.Table) -> Iterator[str]:
        for image_id in table["image_id"].to_pylist():
            if not isinstance(image_id, str):
                raise SchemaError(f"{self.uri}: image_id must be a string in every row, but one is {image_id!r}")
            yield image_id

    def _check_columns(self) -> None:
        with open_parquet(self.uri) as file:
            empty = file.schema_arrow.empty_table()
        conform(empty, IMAGES, self.uri)

    def _tables(self, columns: Sequence[str], rows: int = ROWS_PER_TABLE) -> Iterator[pa.Table]:
        with storage_errors(self.uri), open_parquet(self.uri) as file:
            present = [name for name in columns if name in file.schema_arrow.names]
            kept = None if self.kept is None else pa.array(sorted(self.kept), pa.string())
            groups = None if kept is None else self._groups(file, kept)
            for batch in file.iter_batches(batch_size=rows, row_groups=groups, columns=present):
                table = pa.Table.from_batches([batch])
                check_text(table, self.uri)
                if kept is not None:
                    keys = table["image_id"].cast(pa.string())  # Arrow cannot filter every kind of string
                    table = table.set_column(table.column_names.index("image_id"), "image_id", keys)
                    table = table.filter(pc.is_in(keys, kept))
                if len(table):
                    yield table

    def _groups(self, file: pq.ParquetFile, kept: pa.Array) -> list[int]:
        """Return the row groups that hold any of some keys."""
        tables = (file.read_row_group(group, ["image_id"]) for group in range(file.num_row_groups))
        keys = (table["image_id"].cast(pa.string()) for table in tables)
        return [group for group, column in enumerate(keys) if pc.any(pc.is_in(column, kept)).as_py()]


def open_parquet(uri: str) -> pq.ParquetFile:
    """Open a Parquet file, to be read a few rows at a time.

    Raises:
        StorageError: It cannot be read, or is none.
    """
    fs, path = filesystem(uri)
    with storage_errors(uri):
        try:
            file = pq.ParquetFile(path, filesystem=fs, pre_buffer=False)  # true would hold the whole file
        except pa.ArrowInvalid as error:
            raise StorageError(f"{uri}: not a Parquet file ({error})") from error
    check_inert(file.schema_arrow, uri)
    return file


def read_tables(uri: str, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the rows of one Parquet file of PREDICTIONS or MATCHES as tables of that schema.

    Raises:
        SchemaError: A column is missing or of another type.
    """
    with storage_errors(uri), open_parquet(uri) as file:
        for batch in file.iter_batches(batch_size=1024):
            table = pa.Table.from_batches([batch])
            check_text(table, uri)
            yield conform(table, schema, uri)


# --- WebDataset ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TarShard:
    """One WebDataset tar: members of one sample share their name up to the first dot. It carries no annotations."""

    name: str
    uri: str
    kept: frozenset[str] | None = None
    version: str = ""

    def read(self, *, pixels: bool = True) -> Iterator[pa.Table]:
        """Yield the rows, streaming through the tar once."""
        rows: list[dict[str, Any]] = []
        for image_id, read in self._members():
            row = {"image_id": image_id, "version": self.version}
            rows.append(row | (read() if pixels else {}))  # at once: the tar is a stream
            if len(rows) == ROWS_PER_TABLE:
                yield pa.Table.from_pylist(rows, schema=READ)
                rows = []
        if rows:
            yield pa.Table.from_pylist(rows, schema=READ)

    def image_ids(self) -> Iterator[str]:
        """Yield the keys; a tar has no index, so its headers are walked."""
        return (image_id for image_id, _ in self._members())

    def versions(self) -> Iterator[tuple[str, str]]:
        """Yield each key with the tar's version."""
        return ((image_id, self.version) for image_id in self.image_ids())

    def annotated(self) -> Iterator[tuple[str, frozenset[str]]]:
        """Yield nothing."""
        return iter(())

    def find(self, image_id: str) -> dict[str, Any] | None:  # noqa: ARG002 - the protocol's signature
        """Return None: there are no annotations to look at."""
        return None

    def only(self, image_ids: Set[str]) -> Self:
        """Return the shard reduced to these keys; the tar is read whole all the same."""
        return replace(self, kept=frozenset(image_ids))

    def _members(self) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
        """Yield the key of each photo and what reads the rest of its row."""
        fs, path = filesystem(self.uri)
        with (
            self._tar_errors(),
            fs.open(path, "rb") as raw,
            # what is not UTF-8 in a name becomes an escape: Arrow's strings are UTF-8
            tarfile.open(fileobj=raw, mode="r|*", tarinfo=_WholeTar, errors="backslashreplace") as tar,
        ):
            for member in tar:
                folder, _, file_name = member.name.rpartition("/")
                stem, _, suffix = file_name.partition(".")
                is_photo = f".{suffix.lower()}" in IMAGE_SUFFIXES and not (member.isdir() or member.isdev())
                image_id = f"{self.name}/{folder}/{stem}" if folder else f"{self.name}/{stem}"
                if is_photo and (self.kept is None or image_id in self.kept):
                    yield image_id, partial(self._content, tar, member)

    def _content(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, Any]:
        if not member.isfile():
            return {"image": b"", "error": "a link to another member of the tar, which is read once and in order"}
        if member.size > MAX_FILE_BYTES:  # a sparse or compressed one takes a few bytes of the tar
            return {"image": b"", "error": TOO_LARGE}
        with self._tar_errors():
            file = tar.extractfile(member)
            assert file is not None
            return {"image": file.read()}

    @contextmanager
    def _tar_errors(self) -> Iterator[None]:
        with storage_errors(self.uri):
            try:
                yield
            except tarfile.TarError as error:
                raise StorageError(f"{self.uri}: not a readable tar ({error})") from error


class _WholeTar(tarfile.TarInfo):
    """Headers of a tar that must be whole: tarfile takes a damaged one for the end, which would lose photos unseen."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf.count(0) == tarfile.BLOCKSIZE:  # the mark of the end
                raise
            raise tarfile.ReadError(f"{error}, before the end of the archive") from error
