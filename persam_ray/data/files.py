"""Units of reading: each yields the rows of its part of a dataset, in tables of at most 16 photos (64 MB at 4 MB each).

A shard is small (names, no pixels), travels to a worker and reads there. A file that cannot be read becomes a row that
says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Self

import pyarrow as pa

from persam_ray.data.annotations import BadAnnotationError
from persam_ray.data.coco import CocoTruth, coco_name, from_coco
from persam_ray.data.deepfashion import from_index_map
from persam_ray.data.schema import READ
from persam_ray.data.shard import MAX_FILE_BYTES, ROWS_PER_TABLE, TOO_LARGE
from persam_ray.data.storage import StorageError, read_many

# --- files -----------------------------------------------------------------------------------------------------------


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
                yield file.image_id, frozenset(coco_name(row, names) for row in kept)
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


# --- WebDataset ------------------------------------------------------------------------------------------------------
