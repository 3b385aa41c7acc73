"""A shard: the part of a dataset that one worker reads.

Each format has its own class: `files.FileShard`, `parquet.ParquetShard`, `webdataset.TarShard`. All of them yield the
rows of their part in tables of at most 16 photos (64 MB at 4 MB each).
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
        """Yield key and version (`storage.list_versions`) of each image; a file of many images gives them its own."""
        ...

    def annotated(self) -> Iterator[tuple[str, frozenset[str]]]:
        """Yield key and annotated categories of each image."""
        ...

    def find(self, image_id: str) -> dict[str, Any] | None:
        """Return the row with a key as plain values; None if it is not in this shard or the format has no truth."""
        ...

    def only(self, image_ids: Set[str]) -> Self:
        """Return the shard reduced to these keys; it may hold none of them."""
        ...

    def may_hold(self, image_ids: Set[str]) -> bool:
        """Return False if it is certain, without reading, that none of these keys is in the shard; else True."""
        ...
