"""Datasets as Ray Data sees them: rows streamed from shards, predictions joined with truth, keys counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import ray.data
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from persam_ray.cluster.plan import WorkerPlan
from persam_ray.data.dataset import Dataset
from persam_ray.data.key_hashes import check_keys, key_hashes
from persam_ray.data.parquet import ParquetShard, read_tables
from persam_ray.data.schema import PREDICTIONS
from persam_ray.data.shard import Shard
from persam_ray.keys import image_key

Keys = npt.NDArray[np.uint64]

SCAN_TASKS = 64

ROWS_PER_PARTITION = 2000
"""Images that one task judges; each has a few KB of run-length strings."""


class Readable(Protocol):
    """Something that a worker can read as tables."""

    def read(self) -> Iterator[pa.Table]:
        """Yield tables of one schema."""
        ...


class ShardDatasource(Datasource):
    """Ray Data's view of our shards: one read task for each."""

    def __init__(self, shards: Sequence[Readable]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray leaves it untyped
        self._shards = shards

    def estimate_inmemory_data_size(self) -> int | None:
        """Return None: sizes are known only by reading."""
        return None

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002 - shards are cut already
        per_task_row_limit: int | None = None,
        data_context: Any = None,  # noqa: ARG002 - nothing to configure
    ) -> list[ReadTask]:
        """Return a task for each shard."""
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(shard.read, unknown, per_task_row_limit=per_task_row_limit) for shard in self._shards]


def read_rows(dataset: Dataset, plan: WorkerPlan, done: ray.ObjectRef[Keys] | None = None) -> ray.data.Dataset:
    """Return the rows of a dataset (READ schema), streamed.

    Args:
        dataset: The images.
        plan: States the CPUs of a task.
        done: Sorted `image_key` of the images to leave out: their photos are not fetched.
    """
    shards = dataset.shards if done is None else [_Unfinished(shard, done) for shard in dataset.shards]
    rows: ray.data.Dataset = ray.data.read_datasource(
        ShardDatasource(shards), override_num_blocks=len(shards), num_cpus=plan.task_cpus
    )
    return rows


@dataclass(frozen=True)
class _Unfinished:
    """A shard without the images that are done."""

    shard: Shard
    done: ray.ObjectRef[Keys]

    def read(self) -> Iterator[pa.Table]:
        done = ray.get(self.done)
        image_ids = list(self.shard.image_ids())
        keys = np.array([image_key(image_id) for image_id in image_ids], np.uint64)
        place = np.minimum(np.searchsorted(done, keys), len(done) - 1)
        is_done = done[place] == keys if len(done) else np.zeros(len(keys), np.bool_)
        left = frozenset(image_ids[index] for index in np.flatnonzero(~is_done).tolist())
        if left:
            yield from self.shard.only(left).read()


def join_predictions(dataset: Dataset, predictions: Dataset, images: int, plan: WorkerPlan) -> ray.data.Dataset:
    """Join each image's ground truth with its prediction, by key; a row without a counterpart stays, half of it null.

    Args:
        dataset: The annotated images; their pixels are not read.
        predictions: Parquet files of the PREDICTIONS schema, listed.
        images: Number of images, which decides the number of partitions.
        plan: States the CPUs of a task.
    """
    truth_shards = [_Truths(shard) for shard in dataset.shards]
    found_shards = [_Predictions(shard.uri) for shard in predictions.shards if isinstance(shard, ParquetShard)]
    truths, found = (
        ray.data.read_datasource(ShardDatasource(shards), override_num_blocks=len(shards), num_cpus=plan.task_cpus)
        for shards in (truth_shards, found_shards)
    )
    joined: ray.data.Dataset = truths.join(
        found, join_type="full_outer", on=("image_id",), num_partitions=max(1, -(-images // ROWS_PER_PARTITION))
    )
    return joined


@dataclass(frozen=True)
class _Truths:
    """A shard's keys, sizes and annotations, marked by the column `is_image`."""

    shard: Shard

    def read(self) -> Iterator[pa.Table]:
        for table in self.shard.read(pixels=False):
            yield table.drop(["image"]).append_column("is_image", pa.array([True] * len(table)))


@dataclass(frozen=True)
class _Predictions:
    """A file of predictions, marked by the column `is_prediction`; its size columns are renamed, so both sides stay."""

    uri: str

    def read(self) -> Iterator[pa.Table]:
        for table in read_tables(self.uri, PREDICTIONS):
            renamed = table.drop(["error", "version"]).rename_columns(
                {"height": "predicted_height", "width": "predicted_width"}
            )
            yield renamed.append_column("is_prediction", pa.array([True] * len(table)))


def count_images(dataset: Dataset, plan: WorkerPlan) -> int:
    """Return the number of images, after checking that no key occurs twice.

    Listed files have unique names. The keys of Parquet and WebDataset shards are read in tasks, which return 8 bytes
    for each key. The driver holds none of them.

    Raises:
        DatasetError: There is no image, or two rows have the same image_id.
        SchemaError: A Parquet file lacks a column.
        StorageError: A shard cannot be read.
    """
    if dataset.images is not None:
        return dataset.images  # listing has refused an empty one
    groups = [dataset.shards[start::SCAN_TASKS] for start in range(min(SCAN_TASKS, len(dataset.shards)))]
    scan = ray.remote(num_cpus=plan.task_cpus)(key_hashes)
    check = ray.remote(num_cpus=plan.task_cpus)(_count_keys)
    count: int = ray.get(check.remote(dataset, *[scan.remote(group) for group in groups]))
    return count


def _count_keys(dataset: Dataset, *hashes: Keys) -> int:
    all_hashes = np.concatenate(hashes)
    check_keys(dataset, all_hashes)
    return len(all_hashes)
