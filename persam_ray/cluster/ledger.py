"""What is left to do in a run: the listed photos are compared with the rows that exist.

A photo is done if a row has its key and its version. Rows of another version are dropped before any work: the file was
replaced, or could not be read. So are repeated rows, which a writer leaves that is killed between two files. Rows of
photos that are gone stay, and are counted.

Keys are compared as 64-bit hashes in one task: 16 bytes for each photo and each row. The driver sees only counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any, cast

import numpy as np
import ray

from persam_ray.cluster.plan import WorkerPlan
from persam_ray.cluster.reading import SCAN_TASKS, count_images
from persam_ray.data.dataset import Dataset
from persam_ray.data.key_hashes import check_keys, listed_keys
from persam_ray.data.storage import exists, join, list_files, remove
from persam_ray.runs.counts import Counts
from persam_ray.runs.outcome import Outcome
from persam_ray.runs.parts import MATCHES_FOLDER, PREDICTIONS_FOLDER, count_rows, drop_rows, read_parts
from persam_ray.runs.reconcile import Keys, Verdict, reconcile


@dataclass(frozen=True)
class Ledger:
    """How much of a run exists, and how much is left.

    Attributes:
        images: Number of listed photos.
        left: Number of photos without a row, which are to be labeled.
        changed: Number of photos among these that had a row of another version, or could not be read before.
        removed: Number of rows whose photos are no longer listed.
        dataset: The shards that hold photos left to label.
        done: `image_key` of the photos that have a row, sorted, in the object store; None for a new run.
        outcome: Outcome of the rows that exist.
    """

    images: int
    left: int
    changed: int
    removed: int
    dataset: Dataset
    done: ray.ObjectRef[Keys] | None
    outcome: Outcome

    def as_dict(self) -> dict[str, int]:
        """Return the numbers for the history of runs; `labeled` counts the photos that this run has to label."""
        return {"images": self.images, "labeled": self.left, "changed": self.changed, "removed": self.removed}


def take_stock(dataset: Dataset, output: str, plan: WorkerPlan) -> Ledger:
    """Compare the photos with the rows of a run directory, and drop rows that are repeated or of another version.

    Raises:
        DatasetError: There are no photos, or two photos have the same key.
        StorageError: A part or a shard cannot be read.
    """
    names = _parts(output)
    if not names:
        images = count_images(dataset, plan)
        return Ledger(images, images, 0, 0, dataset, None, Outcome(Counts(), ()))
    light = ray.remote(num_cpus=plan.task_cpus)
    listed = [light(listed_keys).remote(group) for group in _groups(dataset.shards)]
    parts = [light(read_parts).remote(output, group) for group in _groups(names)]
    compare = ray.remote(num_cpus=plan.task_cpus, num_returns=2)(_compare)
    verdict_ref, done = cast("Any", compare.remote(dataset, len(listed), *listed, *parts))
    verdict: Verdict = ray.get(verdict_ref)
    done = ray.put(ray.get(done))  # ours: after a lost node Ray would make it again, from parts that are gone
    outcome = Outcome(verdict.counts + _drop(verdict, output, plan), verdict.judged)
    open_dataset = replace(dataset, shards=tuple(dataset.shards[index] for index in verdict.open_shards))
    return Ledger(verdict.images, verdict.left, verdict.changed, verdict.removed, open_dataset, done, outcome)


def _drop(verdict: Verdict, output: str, plan: WorkerPlan) -> Counts:
    """Drop the rows of a verdict; return the counts of the rewritten parts.

    Parts that go whole are removed first. If a job was killed between rewriting a part and removing the old one, the
    rewritten part may have the name of one of them. Tasks are not retried: the same command, given again, finds what is
    left to do.
    """
    drop = ray.remote(num_cpus=plan.task_cpus, max_retries=0)(drop_rows)
    ray.get([drop.remote(output, name, None) for name, keys in verdict.drops if keys is None])
    kept: list[Counts] = ray.get([drop.remote(output, name, keys) for name, keys in verdict.drops if keys is not None])
    return reduce(add, kept, Counts())


def rows_written(output: str, plan: WorkerPlan) -> int:
    """Return how many rows the files of a run hold; first remove files of matches that have no file of rows.

    A job leaves such a file if it is killed after it wrote the matches and before it wrote the rows.
    """
    names = _parts(output)
    matches = join(output, MATCHES_FOLDER)
    for name in set(list_files(matches, [".parquet"]) if exists(matches) else ()) - set(names):
        remove(join(matches, name))
    count = ray.remote(num_cpus=plan.task_cpus)(count_rows)
    return sum(ray.get([count.remote(output, group) for group in _groups(names)]))


def _parts(output: str) -> list[str]:
    folder = join(output, PREDICTIONS_FOLDER)
    return list_files(folder, [".parquet"]) if exists(folder) else []


def _groups(items: Sequence[Any]) -> list[Sequence[Any]]:
    """Cut items that are to be scanned into groups, one for each task, at most SCAN_TASKS."""
    size = max(1, -(-len(items) // SCAN_TASKS))
    return [items[start : start + size] for start in range(0, len(items), size)]


def _compare(dataset: Dataset, groups: int, *arrays: Any) -> tuple[Verdict, Keys]:
    listed, parts = arrays[:groups], [part for group in arrays[groups:] for part in group]
    keys, versions, sizes = (np.concatenate([one[field] for one in listed]) for field in range(3))
    check_keys(dataset, keys)
    return reconcile(keys, versions, sizes, parts)
