"""A dataset, listed: its shards, and what of a folder was left out."""

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
    """A dataset, listed.

    Attributes:
        uri: As given by the user.
        format: One of Format, never `auto`.
        shards: In the order of their keys where the format has one.
        images: How many, where listing tells; None where the shards must be read for it (Parquet, WebDataset).
        ignored: Files of a folder that are no photos by their names; of many the first few.
        ignored_count: How many there are.
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
    """Return a file's name as text that Arrow can hold: what is not UTF-8 in it becomes an escape."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def dataset_of_files(uri: str, dataset_format: Format, files: Sequence[ImageFile]) -> Dataset:
    """Return a dataset of files of their own, in the order of their keys, cut into shards."""
    ordered = sorted(files, key=lambda file: file.image_id)
    shards: tuple[Shard, ...] = tuple(
        FileShard(tuple(ordered[start : start + FILES_PER_SHARD])) for start in range(0, len(ordered), FILES_PER_SHARD)
    )
    return Dataset(uri, dataset_format, shards, len(ordered))


def tell_ignored(dataset: Dataset) -> None:
    """Say which files of a folder were left out, so that a photo with another suffix is not missed unseen."""
    if dataset.ignored_count:
        names = ", ".join(dataset.ignored) + (", ..." if dataset.ignored_count > len(dataset.ignored) else "")
        console.print(f"{dataset.ignored_count} files of {dataset.uri} are no photos by their names, left out: {names}")
