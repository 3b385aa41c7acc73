"""Part files: `predictions/part-*.parquet` of a run directory, each complete by itself.

A part's name follows from its keys, so a retried task writes the same file again. Its footer holds the counts and the
packed metrics of its rows, so resuming a run reads keys, versions and footers, but no masks.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from persam_ray.data.parquet import open_parquet
from persam_ray.data.schema import PREDICTIONS
from persam_ray.data.storage import StorageError, join, remove, storage_errors, write_parquet
from persam_ray.keys import image_key, version_key
from persam_ray.runs.counts import Counts

PREDICTIONS_FOLDER = "predictions"
MATCHES_FOLDER = "matches"

COUNTS = b"persam_ray.counts"
JUDGED = b"persam_ray.judged"


def part_name(table: pa.Table) -> str:
    """Return a file name that follows from the keys of a table; their order does not matter."""
    keys = "\0".join(sorted(table["image_id"].to_pylist()))
    return f"part-{hashlib.blake2b(keys.encode(), digest_size=8).hexdigest()}.parquet"


def write_part(run: str, table: pa.Table, judged: bytes | None) -> Counts:
    """Write PREDICTIONS rows as a part of a run.

    Args:
        run: URI of the run directory.
        table: The rows.
        judged: The packed summary of the rows that have ground truth; None if none has.

    Returns:
        The counts of the rows.
    """
    counts = Counts.of(table)
    footer = {COUNTS: counts.to_json().encode()} | ({} if judged is None else {JUDGED: base64.b64encode(judged)})
    write_parquet(join(run, PREDICTIONS_FOLDER, part_name(table)), table.replace_schema_metadata(footer))
    return counts


@dataclass(frozen=True)
class Part:
    """The content of a part file, without its masks.

    Attributes:
        name: The file's name.
        keys: `image_key` of each row.
        versions: `version_key` of each row.
        counts: Counts of the rows.
        judged: Packed summary of the rows that have ground truth; None if none has.
    """

    name: str
    keys: npt.NDArray[np.uint64]
    versions: npt.NDArray[np.uint64]
    counts: Counts
    judged: bytes | None


def read_part(run: str, name: str) -> Part:
    """Read a part's keys, versions and footer.

    Raises:
        StorageError: The file cannot be read, or an earlier release wrote it.
    """
    uri = join(run, PREDICTIONS_FOLDER, name)
    with storage_errors(uri), open_parquet(uri) as file:
        footer = file.schema_arrow.metadata or {}
        if COUNTS not in footer or "version" not in file.schema_arrow.names:
            raise StorageError(f"{uri}: was written by an earlier release, whose runs cannot be gone on with")
        table = file.read(["image_id", "version"])
    judged = base64.b64decode(footer[JUDGED]) if JUDGED in footer else None
    versions = {version: version_key(version) for version in table["version"].unique().to_pylist()}
    return Part(
        name,
        np.fromiter(map(image_key, table["image_id"].to_pylist()), np.uint64, len(table)),
        np.fromiter(map(versions.__getitem__, table["version"].to_pylist()), np.uint64, len(table)),
        Counts.from_json(footer[COUNTS]),
        judged,
    )


def read_parts(run: str, names: Sequence[str]) -> list[Part]:
    """Read several parts; errors as for `read_part`."""
    return [read_part(run, name) for name in names]


def count_rows(run: str, names: Sequence[str]) -> int:
    """Return the number of rows in some parts; only the files' footers are read."""
    total = 0
    for name in names:
        uri = join(run, PREDICTIONS_FOLDER, name)
        with storage_errors(uri), open_parquet(uri) as file:
            total += file.metadata.num_rows
    return total


def drop_rows(run: str, name: str, keys: npt.NDArray[np.uint64] | None) -> Counts:
    """Drop rows of a part: the rows that stay become a new part, without metrics, then the old part is removed.

    Args:
        run: URI of the run directory.
        name: The part's file name.
        keys: `image_key` of the rows to drop; None for all.

    Returns:
        The counts of the rows that stay.
    """
    uri = join(run, PREDICTIONS_FOLDER, name)
    counts = Counts()
    if keys is not None:
        dropped = set(keys.tolist())
        with storage_errors(uri), open_parquet(uri) as file:
            table = file.read(PREDICTIONS.names)
        keys_of_rows = map(image_key, table["image_id"].to_pylist())
        kept = table.filter(pa.array([key not in dropped for key in keys_of_rows]))
        if len(kept):
            counts = write_part(run, kept, None)
    remove(join(run, MATCHES_FOLDER, name))
    remove(uri)
    return counts
