"""A listed dataset: its shards, and the files of a folder that were left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from persam_ray.console import console
from persam_ray.data.files import FileShard, ImageFile
from persam_ray.data.shard import Shard
from persam_ray.errors import PersamRayError
from persam_ray.types import Format

FILES_PER_SHARD = 64


class DatasetError(PersamRayError, ValueError):
    """A dataset cannot be used as a whole; the message names it and says why."""


@dataclass(frozen=True)
class Dataset:
    """A listed dataset: names and shards, no pixels.

    Attributes:
        uri: Where the dataset is; local paths are absolute.
        format: Format of the files, never `auto`.
        shards: Parts that workers read. Shards of image files are in the order of their keys.
        images: Number of images; None if only reading the shards tells (Parquet, WebDataset).
        ignored: Files of a folder whose names are not those of photos; the first few, if there are many.
        ignored_count: Number of all such files.
    """

    uri: str
    format: Format
    shards: tuple[Shard, ...]
    images: int | None
    ignored: tuple[str, ...] = ()
    ignored_count: int = 0

    def only(self, image_ids: Iterable[str]) -> Dataset:
        """Return the dataset reduced to these keys, all of which must be in it."""
        keys = frozenset(image_ids)
        kept = tuple(shard.only(keys) for shard in self.shards if shard.may_hold(keys))
        return Dataset(self.uri, self.format, kept, len(keys))


def file_key(name: str) -> str:
    """Return a file's name as text that Arrow can hold: bytes that are not UTF-8 become escapes."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def dataset_of_files(uri: str, dataset_format: Format, files: Sequence[ImageFile]) -> Dataset:
    """Return a dataset of image files, sorted by key and cut into shards of FILES_PER_SHARD."""
    ordered = sorted(files, key=lambda file: file.image_id)
    shards: tuple[Shard, ...] = tuple(
        FileShard(tuple(ordered[start : start + FILES_PER_SHARD])) for start in range(0, len(ordered), FILES_PER_SHARD)
    )
    return Dataset(uri, dataset_format, shards, len(ordered))


def tell_ignored(dataset: Dataset) -> None:
    """Print which files of a folder were left out, so that the user notices photos with an unknown suffix."""
    if dataset.ignored_count:
        names = ", ".join(dataset.ignored) + (", ..." if dataset.ignored_count > len(dataset.ignored) else "")
        console.print(f"{dataset.ignored_count} files of {dataset.uri} are no photos by their names, left out: {names}")
