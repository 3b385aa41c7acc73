"""Keys as 64-bit hashes, by which a dataset of any size is counted and checked for keys that occur twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from persam_ray.data.dataset import Dataset, DatasetError
from persam_ray.data.shard import Shard
from persam_ray.keys import image_key, version_key


def key_hashes(shards: Iterable[Shard]) -> npt.NDArray[np.uint64]:
    """Return the hash of every key of some shards, and so their number.

    100 million of them are 0.8 GB, the keys themselves ten times that.
    """
    return np.fromiter((image_key(image_id) for shard in shards for image_id in shard.image_ids()), dtype=np.uint64)


def listed_keys(
    shards: Sequence[Shard],
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Return the hashes of some shards' keys, shard by shard, those of their versions, and the number in each shard."""
    pairs = [[(image_key(key), version_key(version)) for key, version in shard.versions()] for shard in shards]
    both = np.array([pair for own in pairs for pair in own], np.uint64).reshape(-1, 2)
    return both[:, 0], both[:, 1], np.array([len(own) for own in pairs], np.int64)


def check_keys(dataset: Dataset, hashes: npt.NDArray[np.uint64]) -> None:
    """Raise DatasetError where a dataset has no image, or two of one key.

    Args:
        dataset: Its shards are read again where two hashes are alike.
        hashes: The hashes of all its keys.
    """
    suspects = repeated_hashes(hashes)
    image_id = repeated_key(dataset.shards, suspects.tolist()) if len(suspects) else None
    if image_id is not None:
        raise DatasetError(f"{dataset.uri}: two rows have the image_id {image_id!r}; keys must be unique")
    if len(hashes) == 0:
        raise DatasetError(f"{dataset.uri}: its files hold no images")


def repeated_hashes(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the hashes that occur more than once."""
    ordered = np.sort(hashes)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def repeated_key(shards: Iterable[Shard], suspects: Iterable[int]) -> str | None:
    """Return the first key that occurs twice among those of the given hashes; None if they only share a hash."""
    wanted, seen = set(suspects), set()
    for shard in shards:
        for image_id in shard.image_ids():
            if image_key(image_id) in wanted:
                if image_id in seen:
                    return image_id
                seen.add(image_id)
    return None
