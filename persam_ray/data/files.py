"""Photos that are single files: a shard lists some of them, in the order of their keys.

A shard is small, because it holds names and no pixels. It travels to a worker, which reads the files. A file that
cannot be read becomes a row with an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import pyarrow as pa

from persam_ray.data.annotations import BadAnnotationError
from persam_ray.data.schema import READ
from persam_ray.data.shard import MAX_FILE_BYTES, ROWS_PER_TABLE, TOO_LARGE
from persam_ray.data.storage import StorageError, read_many


class Truth(Protocol):
    """The ground truth of one photo, in the form of its dataset."""

    @property
    def uri(self) -> str | None:
        """URI of the file that holds it, to be fetched with the photo; None if it has been read already."""
        ...

    def read(self, encoded: bytes) -> tuple[list[dict[str, Any]], tuple[int, int]]:
        """Return the ANNOTATION rows, and the (h, w) in pixels of the image that they belong to.

        Args:
            encoded: Content of the file at `uri`; empty if `uri` is None.

        Raises:
            BadAnnotationError: The ground truth is malformed.
        """
        ...

    def categories(self, encoded: bytes) -> frozenset[str]:
        """Return the categories that it holds, crowds left out; arguments and errors as for `read`."""
        ...


@dataclass(frozen=True)
class ImageFile:
    """One photo that is a file.

    Attributes:
        image_id: The photo's key.
        uri: URI of the file; None if its name leads out of the dataset, so that it must not be read.
        truth: The photo's ground truth; None if it has none.
        version: Version of the file, from `storage.list_versions`; empty if it is not known.
    """

    image_id: str
    uri: str | None
    truth: Truth | None = None
    version: str = ""


@dataclass(frozen=True)
class FileShard:
    """Some image files, in the order of their keys."""

    files: tuple[ImageFile, ...]

    def read(self, *, pixels: bool = True) -> Iterator[pa.Table]:
        """Yield the rows in tables; photos and ground truth files of a table are fetched together."""
        for start in range(0, len(self.files), ROWS_PER_TABLE):
            files = self.files[start : start + ROWS_PER_TABLE]
            photos = [file.uri for file in files if pixels and file.uri is not None]
            fetched = _fetched([*photos, *(file.truth.uri for file in files if file.truth and file.truth.uri)])
            yield pa.Table.from_pylist([_file_row(file, fetched, pixels=pixels) for file in files], schema=READ)

    def image_ids(self) -> Iterator[str]:
        """Yield the keys."""
        return (file.image_id for file in self.files)

    def versions(self) -> Iterator[tuple[str, str]]:
        """Yield key and version of each file."""
        return ((file.image_id, file.version) for file in self.files)

    def annotated(self) -> Iterator[tuple[str, frozenset[str]]]:
        """Yield key and categories of each file with ground truth; no category if that cannot be read."""
        for file in self.files:
            if file.truth is not None:
                yield file.image_id, _categories(file.truth)

    def find(self, image_id: str) -> dict[str, Any] | None:
        """Read the file with that key and return its row; None if it is not in this shard."""
        for table in self.only({image_id}).read():
            row: dict[str, Any] = table.to_pylist()[0]
            return row
        return None

    def only(self, image_ids: Set[str]) -> Self:
        """Return a shard of only the files with these keys."""
        return replace(self, files=tuple(file for file in self.files if file.image_id in image_ids))

    def may_hold(self, image_ids: Set[str]) -> bool:
        """Tell whether one of the files has one of these keys."""
        return any(file.image_id in image_ids for file in self.files)


Fetched = Mapping[str, bytes | StorageError]
"""Content of each file, or the error of reading it, by URI."""


def _fetched(uris: Sequence[str]) -> Fetched:
    """Return the files' contents, cut off one byte after the largest size allowed."""
    return dict(zip(uris, read_many(uris, MAX_FILE_BYTES + 1), strict=True))


def _file_row(file: ImageFile, fetched: Fetched, *, pixels: bool) -> dict[str, Any]:
    annotations, size_hw, error = _truth_of(file, fetched)
    photo = fetched[file.uri] if pixels and file.uri is not None else None
    truth = fetched.get(file.truth.uri) if file.truth and file.truth.uri else None
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


def _truth_of(
    file: ImageFile, fetched: Fetched
) -> tuple[list[dict[str, Any]] | None, tuple[int, int] | None, str | None]:
    """Return a file's annotations, the (h, w) of the image they belong to, and the error if they cannot be used."""
    if file.truth is None:
        return None, None, None
    encoded = fetched[file.truth.uri] if file.truth.uri else b""
    if isinstance(encoded, StorageError):
        return None, None, f"the annotation cannot be read: {encoded}"
    try:
        annotations, size_hw = file.truth.read(encoded)
    except BadAnnotationError as error:
        return None, None, str(error)
    return annotations, size_hw, None


def _categories(truth: Truth) -> frozenset[str]:
    encoded = _fetched([truth.uri])[truth.uri] if truth.uri else b""
    try:
        return frozenset() if isinstance(encoded, StorageError) else truth.categories(encoded)
    except BadAnnotationError:
        return frozenset()
