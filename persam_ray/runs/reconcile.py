"""Compare the listed photos with the rows of a run: which photos are left to label, and which rows must go.

Keys and versions are compared as 64-bit hashes: 16 bytes for each photo and each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import numpy.typing as npt

from persam_ray.runs.counts import Counts
from persam_ray.runs.parts import Part

Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Verdict:
    """The result of `reconcile`.

    Attributes:
        images: Number of listed photos.
        left: Number of listed photos without a row that stays.
        changed: Number of rows with another version than their photo.
        removed: Number of rows whose photo is no longer listed.
        open_shards: Positions of the shards that hold photos left to label.
        drops: Names of the parts that lose rows, each with the keys of these rows; None for all rows.
        counts: Counts of the parts that stay as they are.
        judged: Packed summaries of the parts that stay as they are.
    """

    images: int
    left: int
    changed: int
    removed: int
    open_shards: tuple[int, ...]
    drops: tuple[tuple[str, Keys | None], ...]
    counts: Counts
    judged: tuple[bytes, ...]


def reconcile(keys: Keys, versions: Keys, sizes: npt.NDArray[np.int64], parts: Sequence[Part]) -> tuple[Verdict, Keys]:
    """Compare the listed photos with the rows of a run.

    Args:
        keys: `image_key` of each photo, shard by shard; no two are equal.
        versions: `version_key` of each photo, in the same order.
        sizes: Number of photos in each shard.
        parts: The run's part files, at least one.

    Returns:
        The verdict, and the keys of the photos that are done, sorted.
    """
    order = np.argsort(keys)
    row_keys, row_versions = (np.concatenate([getattr(part, name) for part in parts]) for name in ("keys", "versions"))
    owners = np.repeat(np.arange(len(parts)), [len(part.keys) for part in parts])
    place = order[np.minimum(np.searchsorted(keys, row_keys, sorter=order), len(keys) - 1)]
    is_listed = keys[place] == row_keys
    is_stale = is_listed & (versions[place] != row_versions)
    is_repeated = _repeats(row_keys, is_stale)
    drops, is_dropped = _drops(parts, owners, row_keys, is_stale | is_repeated, is_listed)
    done = np.unique(row_keys[is_listed & ~is_dropped])
    is_left = ~np.isin(keys, done)
    left_by_shard = np.add.reduceat(np.append(is_left, False), np.cumsum(np.append(0, sizes[:-1]))) * (sizes > 0)
    touched = {name for name, _ in drops}
    stay = [part for part in parts if part.name not in touched]
    verdict = Verdict(
        images=len(keys),
        left=int(is_left.sum()),
        changed=int(np.count_nonzero(is_stale & ~is_repeated)),
        removed=int(np.count_nonzero(~is_listed & ~is_dropped)),
        open_shards=tuple(np.flatnonzero(left_by_shard).tolist()),
        drops=drops,
        counts=reduce(add, (part.counts for part in stay), Counts()),
        judged=tuple(part.judged for part in stay if part.judged is not None),
    )
    return verdict, done


def _repeats(row_keys: Keys, is_stale: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Mark all rows of a key but one: the first row that is not stale stays, or the first if all are stale."""
    order = np.lexsort((is_stale, row_keys))  # good rows before stale ones; the sort is stable, so earlier rows first
    is_repeated = np.zeros(len(row_keys), np.bool_)
    is_repeated[order[1:]] = row_keys[order[1:]] == row_keys[order[:-1]]
    return is_repeated


def _drops(
    parts: Sequence[Part],
    owners: npt.NDArray[np.int64],
    row_keys: Keys,
    is_bad: npt.NDArray[np.bool_],
    is_listed: npt.NDArray[np.bool_],
) -> tuple[tuple[tuple[str, Keys | None], ...], npt.NDArray[np.bool_]]:
    """Return the parts that lose rows, with the keys of these rows, and a mark for each row that is dropped.

    A part with ground truth loses all rows whose photos are listed: its summary holds sums over all of its rows.
    """
    drops: list[tuple[str, Keys | None]] = []
    is_dropped = is_bad.copy()
    for index in np.unique(owners[is_bad]).tolist():
        own = owners == index
        goes = own & (is_bad | is_listed) if parts[index].judged is not None else own & is_bad
        is_dropped |= goes
        drops.append((parts[index].name, None if goes.sum() == own.sum() else row_keys[goes]))
    return tuple(drops), is_dropped
