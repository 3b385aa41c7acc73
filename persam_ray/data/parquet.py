"""Parquet: shards of IMAGES rows, and the jobs' own tables, read a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from persam_ray.data.dataset import Dataset
from persam_ray.data.schema import IMAGES, VERSION, SchemaError, check_inert, check_text, conform
from persam_ray.data.shard import ROWS_PER_TABLE
from persam_ray.data.storage import StorageError, filesystem, listed_uri, storage_errors


def list_parquet(uri: str, names: Mapping[str, str]) -> Dataset:
    """List the Parquet files below a folder or prefix."""
    kept = [name for name in names if name.lower().endswith(".parquet")]
    shards = tuple(ParquetShard(listed_uri(uri, name), version=names[name]) for name in kept)
    return Dataset(uri, "parquet", shards, None)


KEYS_AND_ANNOTATIONS = pa.schema([IMAGES.field("image_id"), IMAGES.field("annotations")])


@dataclass(frozen=True)
class ParquetShard:
    """One Parquet file with the columns of IMAGES: all of its rows, or those with some keys.

    Attributes:
        uri: Path or URL of the file.
        kept: Keys of the rows to read; None for all rows.
        version: Version of the file, which all of its rows share.
    """

    uri: str
    kept: frozenset[str] | None = None
    version: str = ""

    def read(self, *, pixels: bool = True) -> Iterator[pa.Table]:
        """Yield the rows, at most ROWS_PER_TABLE at a time, even if the file's row groups are larger."""
        for table in self._tables([name for name in IMAGES.names if pixels or name != "image"]):
            whole = table if pixels else table.append_column("image", pa.nulls(len(table), pa.binary()))
            rows = conform(whole, IMAGES, self.uri)
            rows = rows.append_column("error", pa.nulls(len(rows), pa.string()))
            yield rows.append_column(VERSION, pa.array([self.version] * len(rows), VERSION.type))

    def image_ids(self) -> Iterator[str]:
        """Yield the keys; no other column is read.

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
        """Return the row with that key, or None; pixels of other row groups are not read."""
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
        """Return the shard reduced to these keys; pixels of row groups without any of them are not read."""
        return replace(self, kept=frozenset(image_ids))

    def may_hold(self, image_ids: Set[str]) -> bool:  # noqa: ARG002 - the protocol's signature
        """Return True: only reading the file tells its keys."""
        return True

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
        SchemaError: A column that we read has a type that could run code.
        StorageError: The file cannot be read, or is not Parquet.
    """
    fs, path = filesystem(uri)
    with storage_errors(uri):
        try:
            file = pq.ParquetFile(path, filesystem=fs, pre_buffer=False)  # True would hold the whole file
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
