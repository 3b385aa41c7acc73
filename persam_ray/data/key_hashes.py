"""Keys as 64-bit hashes: with these a dataset of any size is counted and checked for repeated keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from persam_ray.data.dataset import Dataset, DatasetError
from persam_ray.data.shard import Shard
from persam_ray.keys import image_key, version_key


def key_hashes(shards: Iterable[Shard]) -> npt.NDArray[np.uint64]:
    """Return the hash of every key in some shards, (images,) uint64; its length is the number of images.

    100 million hashes take 0.8 GB; the keys themselves would take ten times as much.
    """
    return np.fromiter((image_key(image_id) for shard in shards for image_id in shard.image_ids()), dtype=np.uint64)


def listed_keys(
    shards: Sequence[Shard],
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Return key hashes and version hashes of some shards' images, shard by shard, and the images of each shard."""
    pairs = [[(image_key(key), version_key(version)) for key, version in shard.versions()] for shard in shards]
    both = np.array([pair for own in pairs for pair in own], np.uint64).reshape(-1, 2)
    return both[:, 0], both[:, 1], np.array([len(own) for own in pairs], np.int64)


def check_keys(dataset: Dataset, hashes: npt.NDArray[np.uint64]) -> None:
    """Check that a dataset has images and that no two of them share a key.

    Args:
        dataset: The dataset. If two hashes are equal, its keys are read again: different keys may share a hash.
        hashes: The hashes of all its keys.

    Raises:
        DatasetError: There is no image, or two images have the same key.
    """
    suspects = repeated_hashes(hashes)
    image_id = repeated_key(dataset.shards, suspects.tolist()) if len(suspects) else None
    if image_id is not None:
        raise DatasetError(f"{dataset.uri}: two rows have the image_id {image_id!r}; keys must be unique")
    if len(hashes) == 0:
        raise DatasetError(f"{dataset.uri}: its files hold no images")


def repeated_hashes(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the hashes that occur more than once, each once, sorted."""
    ordered = np.sort(hashes)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def repeated_key(shards: Iterable[Shard], suspects: Iterable[int]) -> str | None:
    """Return the first key that occurs twice, among keys with these hashes; None if only their hashes are equal."""
    wanted, seen = set(suspects), set()
    for shard in shards:
        for image_id in shard.image_ids():
            if image_key(image_id) in wanted:
                if image_id in seen:
                    return image_id
                seen.add(image_id)
    return None
