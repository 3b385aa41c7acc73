"""List the photos of a dataset in any of five formats, and cut them into shards.

The names of the files below a URI tell the format. The driver lists only names. Workers read the pixels, and for
Parquet and WebDataset the keys too.
"""

from __future__ import annotations

from collections.abc import Iterable

from persam_ray.data.coco import list_coco
from persam_ray.data.dataset import Dataset, DatasetError
from persam_ray.data.deepfashion import list_deepfashion
from persam_ray.data.folder import list_folder
from persam_ray.data.parquet import list_parquet
from persam_ray.data.storage import absolute, list_versions
from persam_ray.data.webdataset import list_webdataset
from persam_ray.images import IMAGE_SUFFIXES
from persam_ray.types import Format


def open_dataset(uri: str, dataset_format: Format = "auto", annotations: str | None = None) -> Dataset:
    """List a dataset.

    Args:
        uri: A folder, prefix or file; for COCO the folder of the images, or the `instances_*.json` itself.
        dataset_format: Format of the files; `auto` decides by their names.
        annotations: URI of a COCO `instances_*.json` for the images at `uri`.

    Raises:
        DatasetError: There is no image, or the options contradict each other.
        StorageError: The URI cannot be listed.
    """
    uri, annotations = absolute(uri), annotations and absolute(annotations)
    if annotations is not None and dataset_format not in {"auto", "coco"}:
        raise DatasetError(f"--annotations is COCO's file and does not go with --format {dataset_format}")
    if annotations is not None or dataset_format == "coco" or (dataset_format == "auto" and uri.endswith(".json")):
        return list_coco(uri, annotations)
    names = list_versions(uri)
    found = _detect(names) if dataset_format == "auto" else dataset_format
    builders = {
        "parquet": list_parquet,
        "webdataset": list_webdataset,
        "deepfashion": list_deepfashion,
        "folder": list_folder,
    }
    dataset = builders[found](uri, names)
    if not dataset.shards:
        raise DatasetError(f"{uri}: no {_what(found)} there ({len(names)} other files)")
    return dataset


def _detect(names: Iterable[str]) -> Format:
    suffixes = {name[name.rfind(".") :].lower() for name in names if "." in name}
    if ".parquet" in suffixes:
        return "parquet"
    if ".tar" in suffixes:
        return "webdataset"
    folders = {name.split("/", 1)[0] for name in names if "/" in name}
    return "deepfashion" if {"images", "segm"} <= folders else "folder"


def _what(dataset_format: str) -> str:
    images = f"images ({', '.join(IMAGE_SUFFIXES)})"
    named = {"parquet": ".parquet files", "webdataset": ".tar files", "deepfashion": f"{images} below images/"}
    return named.get(dataset_format, images)
