"""WebDataset: tars of photos, each a stream that is read once and in order."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import pyarrow as pa

from persam_ray.data.dataset import Dataset
from persam_ray.data.schema import READ
from persam_ray.data.shard import MAX_FILE_BYTES, ROWS_PER_TABLE, TOO_LARGE
from persam_ray.data.storage import StorageError, filesystem, listed_uri, storage_errors
from persam_ray.images import IMAGE_SUFFIXES


def list_webdataset(uri: str, names: Mapping[str, str]) -> Dataset:
    """List the tars below a folder or prefix."""
    kept = [name for name in names if name.lower().endswith(".tar")]
    shards = tuple(TarShard(name[: -len(".tar")], listed_uri(uri, name), version=names[name]) for name in kept)
    return Dataset(uri, "webdataset", shards, None)


@dataclass(frozen=True)
class TarShard:
    """One WebDataset tar: members of one sample share their name up to the first dot. It carries no annotations.

    Attributes:
        name: Path of the tar below the dataset, without `.tar`; the keys of its photos begin with it.
        uri: Path or URL of the tar.
        kept: Keys of the photos to read; None for all.
        version: Version of the tar, which all of its photos share.
    """

    name: str
    uri: str
    kept: frozenset[str] | None = None
    version: str = ""

    def read(self, *, pixels: bool = True) -> Iterator[pa.Table]:
        """Yield the rows in tables, streaming through the tar once."""
        rows: list[dict[str, Any]] = []
        for image_id, read in self._members():
            row = {"image_id": image_id, "version": self.version}
            rows.append(row | (read() if pixels else {}))  # read now: the tar is a stream
            if len(rows) == ROWS_PER_TABLE:
                yield pa.Table.from_pylist(rows, schema=READ)
                rows = []
        if rows:
            yield pa.Table.from_pylist(rows, schema=READ)

    def image_ids(self) -> Iterator[str]:
        """Yield the keys; a tar has no index, so all of its headers are read."""
        return (image_id for image_id, _ in self._members())

    def versions(self) -> Iterator[tuple[str, str]]:
        """Yield each key with the tar's version."""
        return ((image_id, self.version) for image_id in self.image_ids())

    def annotated(self) -> Iterator[tuple[str, frozenset[str]]]:
        """Yield nothing: a tar has no annotations."""
        return iter(())

    def find(self, image_id: str) -> dict[str, Any] | None:  # noqa: ARG002 - the protocol's signature
        """Return None: there are no annotations to look at."""
        return None

    def only(self, image_ids: Set[str]) -> Self:
        """Return the shard reduced to these keys; the whole tar is still read."""
        return replace(self, kept=frozenset(image_ids))

    def may_hold(self, image_ids: Set[str]) -> bool:
        """Tell whether one of these keys begins with the tar's name."""
        return any(image_id.startswith(f"{self.name}/") for image_id in image_ids)

    def _members(self) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
        """Yield each photo's key, and a function that reads the rest of its row."""
        fs, path = filesystem(self.uri)
        with (
            self._tar_errors(),
            fs.open(path, "rb") as raw,
            # bytes of a name that are not UTF-8 become escapes: Arrow's strings are UTF-8
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
        if member.size > MAX_FILE_BYTES:  # a sparse or compressed member takes few bytes of the tar
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
    """A tar header that must be intact: tarfile takes a damaged one for the end, and photos would be lost unseen."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf.count(0) == tarfile.BLOCKSIZE:  # a block of zeros marks the end
                raise
            raise tarfile.ReadError(f"{error}, before the end of the archive") from error
