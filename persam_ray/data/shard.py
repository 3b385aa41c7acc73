"""A shard: a part of a dataset, which a worker reads by itself.

Each format has its own: `files.FileShard`, `parquet.ParquetShard`, `webdataset.TarShard`. All yield the rows of their
part in tables of at most 16 photos (64 MB at 4 MB each).
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any, Protocol, Self

import pyarrow as pa

ROWS_PER_TABLE = 16

MAX_FILE_BYTES = 2**27  # 134 MB: no photo of up to 134 megapixels needs more; 16 of them fit into one Arrow table
TOO_LARGE = f"the file is larger than the {MAX_FILE_BYTES / 1e6:.0f} MB allowed"


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

    def may_hold(self, image_ids: Set[str]) -> bool:
        """Return False where it can be told, without reading, that none of these keys is in the shard."""
        ...
