"""The reference photos of a labeling job, read and checked on the driver before any other work."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from persam_ray.data.annotations import BadAnnotationError, annotated_photo, category_mask
from persam_ray.data.dataset import Dataset, DatasetError
from persam_ray.data.listing import open_dataset
from persam_ray.data.storage import filesystem, read_bytes
from persam_ray.errors import BadReferenceError
from persam_ray.images import BadImageError, decode_image, decode_mask
from persam_ray.options.label import LabelConfig, parse_reference
from persam_ray.types import Format, Reference


@dataclass(frozen=True)
class ReferenceSet:
    """The references of all categories.

    Attributes:
        by_category: References by category, in the order in which the user named the categories.
        image_ids: Keys of the references among the photos to label; empty if the references come from elsewhere.
    """

    by_category: Mapping[str, Sequence[Reference]]
    image_ids: frozenset[str] = frozenset()

    def fingerprints(self) -> dict[str, list[str]]:
        """Return a digest of the pixels and mask of each reference, for the manifest."""
        return {
            category: [_fingerprint(reference) for reference in references]
            for category, references in self.by_category.items()
        }


def load_references(config: LabelConfig) -> ReferenceSet:
    """Read the references that the options name.

    Raises:
        BadReferenceError: A photo or mask cannot be used, or they differ in size, or a mask is empty.
        DatasetError: `--references` does not hold a category or an id.
        StorageError: A file cannot be read.
    """
    if config.references is None:
        by_category: dict[str, list[Reference]] = {}
        for pair in config.reference:
            category, image_uri, mask_uri = parse_reference(pair)
            by_category.setdefault(category, []).append(_read_pair(category, image_uri, mask_uri))
        return ReferenceSet(by_category)
    among_images = filesystem(config.references)[1] == filesystem(config.images)[1]
    layout: tuple[Format, str | None] = (config.format, config.annotations) if among_images else ("auto", None)
    dataset = open_dataset(config.references, *layout)
    chosen = choose_references(dataset, config.category, config.chosen_ids)
    loaded = {
        category: [load_reference(dataset, image_id, category) for image_id in image_ids]
        for category, image_ids in chosen.items()
    }
    seen = frozenset(image_id for image_ids in chosen.values() for image_id in image_ids)
    return ReferenceSet(loaded, seen if among_images else frozenset())


def _read_pair(category: str, image_uri: str, mask_uri: str) -> Reference:
    try:
        image_hw3 = decode_image(read_bytes(image_uri))
    except BadImageError as error:
        raise BadReferenceError(f"reference photo {image_uri}: {error}") from error
    try:
        return Reference(category, image_hw3, decode_mask(read_bytes(mask_uri)))
    except BadImageError as error:
        raise BadReferenceError(f"reference mask {mask_uri}: {error}") from error
    except BadReferenceError as error:
        raise BadReferenceError(f"{image_uri}, {mask_uri}: {error}") from error


def _fingerprint(reference: Reference) -> str:
    digest = hashlib.sha256()
    digest.update(str(reference.image_hw3.shape).encode())
    digest.update(reference.image_hw3.tobytes())
    digest.update(reference.mask_hw.tobytes())
    return f"sha256:{digest.hexdigest()}"


def choose_references(dataset: Dataset, categories: Sequence[str], image_ids: Sequence[str]) -> dict[str, list[str]]:
    """Choose the reference photos of each category among annotated images.

    Args:
        dataset: The annotated images.
        categories: Categories to find references for, at least one.
        image_ids: Keys of the photos to take. If empty, the first photo in key order that holds a category is taken.

    Raises:
        DatasetError: No annotated image has one of the ids, or none of the images holds one of the categories.
    """
    chosen: dict[str, list[str]] = {category: [] for category in categories}
    known: set[str] = set()
    missing = set(image_ids)
    for image_id, held in _annotated_in_key_order(dataset):
        known |= held
        missing.discard(image_id)
        for category in held & chosen.keys():
            if image_id in image_ids or (not image_ids and not chosen[category]):
                chosen[category].append(image_id)
        if not missing and (image_ids or all(chosen.values())):
            break
    if missing:
        raise DatasetError(f"{dataset.uri}: no annotated image has the id {sorted(missing)[0]!r}")
    for category, found in chosen.items():
        if not found:
            among = f"the images {', '.join(image_ids)} do not hold" if image_ids else "no annotated image holds"
            raise DatasetError(
                f"{dataset.uri}: {among} the category {category!r}; seen: {', '.join(sorted(known)) or 'no category'}"
            )
    return chosen


def _annotated_in_key_order(dataset: Dataset) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield keys and categories in key order: files are sorted already, the keys of Parquet shards are sorted here."""
    pairs = (pair for shard in dataset.shards for pair in shard.annotated())
    return iter(sorted(pairs, key=itemgetter(0))) if dataset.format == "parquet" else pairs


def load_reference(dataset: Dataset, image_id: str, category: str) -> Reference:
    """Read one annotated photo as a reference: the mask is the union of the category's instances.

    Raises:
        BadReferenceError: The photo or its annotation cannot be used.
    """
    row = next((row for row in (shard.find(image_id) for shard in dataset.shards) if row), None)
    if row is None:
        raise BadReferenceError(f"{dataset.uri}: the reference {image_id!r} is gone")
    return _reference(row, category)


def _reference(row: dict[str, Any], category: str) -> Reference:
    try:
        image_hw3 = annotated_photo(row)
        size_hw = (image_hw3.shape[0], image_hw3.shape[1])
        return Reference(category, image_hw3, category_mask(row["annotations"] or [], category, size_hw))
    except (BadReferenceError, BadImageError, BadAnnotationError) as error:
        raise BadReferenceError(f"reference {row['image_id']!r}: {error}") from error
