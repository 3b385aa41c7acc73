"""A folder or prefix of image files; other files there are counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from persam_ray.data.dataset import Dataset, dataset_of_files, file_key
from persam_ray.data.files import ImageFile
from persam_ray.data.storage import listed_uri
from persam_ray.images import IMAGE_SUFFIXES


def list_folder(uri: str, names: Mapping[str, str]) -> Dataset:
    """List the image files below a folder or prefix, and count the other files there."""
    kept = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    ignored = [file_key(name) for name in names if not name.lower().endswith(IMAGE_SUFFIXES)]
    dataset = dataset_of_files(
        uri, "folder", [ImageFile(file_key(name), listed_uri(uri, name), version=names[name]) for name in kept]
    )
    return replace(dataset, ignored=tuple(ignored[:3]), ignored_count=len(ignored))
