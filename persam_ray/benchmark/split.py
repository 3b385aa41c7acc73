"""Choose the images to train on and those to test on: drawn by a seed and disjoint, or as the user lists them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import ray

from persam_ray.cluster.plan import WorkerPlan
from persam_ray.cluster.reading import SCAN_TASKS
from persam_ray.data.annotations import BadAnnotationError, annotated_photo, category_mask
from persam_ray.data.dataset import Dataset, DatasetError
from persam_ray.data.shard import Shard
from persam_ray.images import BadImageError

LEAST_TRAINING_FRACTION = 0.01
"""Training images must be covered by the categories to at least this fraction: a far-off speck teaches little."""

Annotated = dict[str, frozenset[str]]
"""The categories that each annotated image of a dataset holds, by the image's key."""


@dataclass(frozen=True)
class Split:
    """Disjoint sets of images.

    Attributes:
        train_ids: Keys of the training images, in the order in which they were drawn or listed.
        test_ids: Keys of the test images, in the same kind of order.
        test_with_category: Number of test images that hold the category.
    """

    train_ids: tuple[str, ...]
    test_ids: tuple[str, ...]
    test_with_category: int


def list_annotated(dataset: Dataset, plan: WorkerPlan) -> Annotated:
    """Return the categories of every annotated image. Tasks read the annotations; the driver holds keys and names."""
    groups = [dataset.shards[start::SCAN_TASKS] for start in range(min(SCAN_TASKS, len(dataset.shards)))]
    scan = ray.remote(num_cpus=plan.task_cpus)(_annotated)
    parts: list[list[tuple[str, frozenset[str]]]] = ray.get([scan.remote(group) for group in groups])
    return {image_id: held for part in parts for image_id, held in part}


def _annotated(shards: Sequence[Shard]) -> list[tuple[str, frozenset[str]]]:
    return [pair for shard in shards for pair in shard.annotated()]


def check_ids(ids: Collection[str], annotated: Annotated, uri: str) -> None:
    """Raise DatasetError unless all ids are among the annotated images."""
    if missing := sorted(set(ids) - annotated.keys()):
        raise DatasetError(f"{uri}: no annotated image has the id {missing[0]!r}")


def check_categories(categories: Collection[str], annotated: Annotated, uri: str) -> None:
    """Raise DatasetError if no image holds one of the categories."""
    known = frozenset[str]().union(*annotated.values())
    if missing := sorted(set(categories) - known):
        seen = ", ".join(sorted(known)) or "no category"
        raise DatasetError(f"{uri}: no annotated image holds the category {missing[0]!r}; seen: {seen}")


def draw_training_images(
    dataset: Dataset, annotated: Annotated, categories: Sequence[str], count: int, seed: int, plan: WorkerPlan
) -> tuple[str, ...]:
    """Draw images that can be read and that the categories cover to at least LEAST_TRAINING_FRACTION.

    Raises:
        DatasetError: There are fewer than `count` such images.
    """
    holders = [image_id for image_id, held in annotated.items() if not held.isdisjoint(categories)]
    order = _shuffled(holders, seed)
    task = ray.remote(num_cpus=plan.task_cpus)(_first_usable)
    chosen: list[str] = ray.get(task.remote(dataset, order, tuple(categories), count))
    if len(chosen) < count:
        raise DatasetError(
            f"{dataset.uri}: {count} training images were asked for, but only {len(chosen)} hold "
            f"{' or '.join(map(repr, categories))} on at least {LEAST_TRAINING_FRACTION:.0%} of their pixels"
        )
    return tuple(chosen)


def draw_split(
    dataset: Dataset, annotated: Annotated, category: str, train_ids: Sequence[str], test_images: int, seed: int
) -> Split:
    """Draw test images from all annotated ones that are not trained on.

    Raises:
        DatasetError: There are fewer than `test_images` such images.
    """
    others = _shuffled(annotated.keys() - set(train_ids), seed + 1)
    if len(others) < test_images:
        raise DatasetError(
            f"{dataset.uri}: {test_images} test images were asked for, but beside the {len(train_ids)} training images "
            f"only {len(others)} are annotated"
        )
    return listed_split(annotated, category, train_ids, others[:test_images])


def listed_split(annotated: Annotated, category: str, train_ids: Sequence[str], test_ids: Sequence[str]) -> Split:
    """Return the split into these training and test images."""
    return Split(tuple(train_ids), tuple(test_ids), sum(category in annotated[image_id] for image_id in test_ids))


def _shuffled(ids: Collection[str], seed: int) -> list[str]:
    ordered = sorted(ids)
    return [ordered[index] for index in np.random.default_rng(seed).permutation(len(ordered))]


def _first_usable(dataset: Dataset, order: Sequence[str], categories: Sequence[str], count: int) -> list[str]:
    """Return the first `count` ids, in order, whose photos can be trained on."""
    chosen: list[str] = []
    for start in range(0, len(order), 4 * count):
        ids = order[start : start + 4 * count]
        usable = set(_usable(dataset.only(ids), categories))
        chosen += [image_id for image_id in ids if image_id in usable]
        if len(chosen) >= count:
            break
    return chosen[:count]


def _usable(dataset: Dataset, categories: Sequence[str]) -> Iterator[str]:
    for row in (row for shard in dataset.shards for table in shard.read() for row in table.to_pylist()):
        try:
            image_hw3 = annotated_photo(row)
            size_hw = (image_hw3.shape[0], image_hw3.shape[1])
            covered = sum(category_mask(row["annotations"] or (), name, size_hw).mean() for name in categories)
        except (BadImageError, BadAnnotationError):
            continue
        if covered >= LEAST_TRAINING_FRACTION:
            yield row["image_id"]
