"""The options of `persam-ray shard`."""

from __future__ import annotations

from dataclasses import dataclass

from persam_ray.options.base import JobConfig, check_between


@dataclass(frozen=True, kw_only=True)
class ShardConfig(JobConfig):
    """Write photos of any format, and their annotations, as Parquet shards.

    Example: persam-ray shard --images photos/ --output s3://bucket/shards
    """

    images_per_shard: int = 256
    """Photos in one file, 1 to 10000. A worker holds that many in memory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("--images-per-shard", self.images_per_shard, 1, 10_000)
