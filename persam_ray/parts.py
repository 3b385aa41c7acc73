"""Part files: `predictions/part-*.parquet` of a run directory, each whole in itself.

A part's name follows from its keys, so that a retried task writes the same file again, and its footer says what its
rows came to: whoever goes on with a run reads keys, versions and footers, no masks.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from persam_ray.evaluation import image_key
from persam_ray.schema import PREDICTIONS
from persam_ray.shards import open_parquet
from persam_ray.storage import StorageError, join, remove, storage_errors, write_parquet

PREDICTIONS_FOLDER = "predictions"
MATCHES_FOLDER = "matches"

COUNTS = b"persam_ray.counts"
JUDGED = b"persam_ray.judged"

REASONS = 20  # that are told apart; the rest are `other`


@dataclass(frozen=True)
class Counts:
    """What became of some images.

    Attributes:
        images: Rows of predictions, one for each.
        ok: Those that were labeled (with or without instances).
        failed: Those that could not be; each row says why.
        instances: Found in all of them.
        reasons: Failures by what was wrong, without the particulars.
    """

    images: int = 0
    ok: int = 0
    failed: int = 0
    instances: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Counts) -> Counts:
        """Add up."""
        return Counts(
            self.images + other.images,
            self.ok + other.ok,
            self.failed + other.failed,
            self.instances + other.instances,
            _most_common(Counter(self.reasons) + Counter(other.reasons)),
        )

    def to_json(self) -> str:
        """Return the counts as text."""
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Counts:
        """Return the counts of `to_json`."""
        return cls(**json.loads(text))

    @classmethod
    def of(cls, table: pa.Table) -> Counts:
        """Count PREDICTIONS rows."""
        failed = table.filter(pc.equal(table["status"], "failed"))
        instances = pc.sum(pc.list_value_length(table["instances"])).as_py() or 0
        reasons = Counter(reason(error or "") for error in failed["error"].to_pylist())
        return cls(len(table), len(table) - len(failed), len(failed), instances, _most_common(reasons))


def reason(error: str) -> str:
    """Return an error's kind: its text up to the particulars (a colon, a parenthesis, a quote), numbers left out."""
    kind = re.split(r"[:('\"]", error, maxsplit=1)[0]
    return re.sub(r"\d+(\.\d+)?", "N", kind).strip()[:80] or "unknown"


def _most_common(reasons: Counter[str]) -> dict[str, int]:
    told = sorted(
        ((kind, number) for kind, number in reasons.items() if kind != "other"), key=lambda one: (-one[1], one[0])
    )
    kept = dict(told[:REASONS])
    rest = reasons.total() - sum(kept.values())
    return kept | {"other": rest} if rest else kept


def part_name(table: pa.Table) -> str:
    """Return a file's name that follows from a table's keys, in any order."""
    keys = "\0".join(sorted(table["image_id"].to_pylist()))
    return f"part-{hashlib.blake2b(keys.encode(), digest_size=8).hexdigest()}.parquet"


def write_part(run: str, table: pa.Table, judged: bytes | None) -> Counts:
    """Write PREDICTIONS rows as a part of a run.

    Args:
        run: URI of the run directory.
        table: The rows.
        judged: The packed summary of those that have ground truth; None where none has.

    Returns:
        What the rows came to.
    """
    counts = Counts.of(table)
    footer = {COUNTS: counts.to_json().encode()} | ({} if judged is None else {JUDGED: base64.b64encode(judged)})
    write_parquet(join(run, PREDICTIONS_FOLDER, part_name(table)), table.replace_schema_metadata(footer))
    return counts


@dataclass(frozen=True)
class Part:
    """What a part holds, without its masks.

    Attributes:
        name: Of the file.
        keys: image_key of each row.
        versions: `version_key` of each row.
        counts: What the rows came to.
        judged: Their packed summary; None where none has ground truth.
    """

    name: str
    keys: npt.NDArray[np.uint64]
    versions: npt.NDArray[np.uint64]
    counts: Counts
    judged: bytes | None


def version_key(version: str | None) -> int:
    """Return 64 bits that stand for a version; 0, which no version has, for None."""
    return 0 if version is None else max(1, image_key(version))


def read_part(run: str, name: str) -> Part:
    """Read a part's keys, versions and footer.

    Raises:
        StorageError: It cannot be read, or no run wrote it.
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
    """Read several."""
    return [read_part(run, name) for name in names]


def count_rows(run: str, names: Sequence[str]) -> int:
    """Return the number of rows in some parts; only the ends of the files are read."""
    total = 0
    for name in names:
        uri = join(run, PREDICTIONS_FOLDER, name)
        with storage_errors(uri), open_parquet(uri) as file:
            total += file.metadata.num_rows
    return total


def drop_rows(run: str, name: str, keys: npt.NDArray[np.uint64] | None) -> Counts:
    """Take rows out of a part; what is left becomes a part of its own, without judgement, then the old one goes.

    Args:
        run: URI of the run directory.
        name: Of the part.
        keys: image_key of the rows to drop; None for all.

    Returns:
        What the rows that are left come to.
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
