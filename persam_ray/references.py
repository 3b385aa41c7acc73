"""The reference photos of a labeling job, read and checked on the driver before any other work."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from persam_ray.config import LabelConfig, parse_reference
from persam_ray.datasets import Format, choose_references, load_reference, open_dataset
from persam_ray.images import BadImageError, decode_image, decode_mask
from persam_ray.storage import filesystem, read_bytes
from persam_ray.types import BadReferenceError, Reference


@dataclass(frozen=True)
class ReferenceSet:
    """The references of all categories.

    Attributes:
        by_category: In the order in which the user named the categories.
        image_ids: Keys among the photos to label; empty where the references come from elsewhere.
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
