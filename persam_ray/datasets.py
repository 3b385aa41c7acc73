"""Where the photos come from: any of five formats, told apart by what lies below a URI, cut into shards.

The driver lists names; pixels, and for Parquet and WebDataset the keys too, are read by workers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from persam_ray.annotations import BadAnnotationError, category_mask, check_truth
from persam_ray.evaluation import image_key
from persam_ray.images import IMAGE_SUFFIXES, BadImageError, decode_image
from persam_ray.parts import version_key
from persam_ray.public_text import writable
from persam_ray.shards import CocoTruth, FileShard, ImageFile, ParquetShard, Shard, TarShard
from persam_ray.storage import absolute, base_name, exists, join, list_versions, read_json
from persam_ray.types import BadReferenceError, Reference

Format = Literal["auto", "parquet", "folder", "webdataset", "coco", "deepfashion"]

FILES_PER_SHARD = 64


class DatasetError(ValueError):
    """A dataset cannot be used as a whole; the message names it and says why."""


@dataclass(frozen=True)
class Dataset:
    """A dataset, listed.

    Attributes:
        uri: As given by the user.
        format: One of Format, never `auto`.
        shards: In the order of their keys where the format has one.
        images: How many, where listing tells; None where the shards must be read for it (Parquet, WebDataset).
        ignored: Files of a folder that are no photos by their names; of many the first few.
        ignored_count: How many there are.
    """

    uri: str
    format: Format
    shards: tuple[Shard, ...]
    images: int | None
    ignored: tuple[str, ...] = ()
    ignored_count: int = 0

    def only(self, image_ids: Iterable[str]) -> Dataset:
        """Return the dataset reduced to these keys, all of which must be in it."""
        keys = frozenset(image_ids)
        tars = {image_id[:cut] for image_id in keys for cut in range(len(image_id)) if image_id[cut] == "/"}
        shards = (
            shard.only(keys) for shard in self.shards if not (isinstance(shard, TarShard) and shard.name not in tars)
        )
        kept = tuple(shard for shard in shards if not (isinstance(shard, FileShard) and not shard.files))
        return Dataset(self.uri, self.format, kept, len(keys))


def open_dataset(uri: str, dataset_format: Format = "auto", annotations: str | None = None) -> Dataset:
    """List a dataset.

    Args:
        uri: A folder, prefix or file; for COCO the folder of the images, or the `instances_*.json` itself.
        dataset_format: `auto` looks at the names.
        annotations: URI of a COCO `instances_*.json` for the images at `uri`.

    Raises:
        DatasetError: No image is there, or an option contradicts another.
        StorageError: It cannot be listed.
    """
    uri, annotations = absolute(uri), annotations and absolute(annotations)
    if annotations is not None and dataset_format not in {"auto", "coco"}:
        raise DatasetError(f"--annotations is COCO's file and does not go with --format {dataset_format}")
    if annotations is not None or dataset_format == "coco" or (dataset_format == "auto" and uri.endswith(".json")):
        return _coco(uri, annotations)
    names = list_versions(uri)
    found = _detect(names) if dataset_format == "auto" else dataset_format
    builders = {"parquet": _parquet, "webdataset": _webdataset, "deepfashion": _deepfashion, "folder": _folder}
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


def _file_uri(uri: str, name: str) -> str:
    """Return a listed file's URI; a single file is listed as its own name (as is `a.jpg` in a folder `a.jpg`)."""
    below = join(uri, name)
    return uri if base_name(uri) == name and not exists(below) else below


def _parquet(uri: str, names: Mapping[str, str]) -> Dataset:
    kept = [name for name in names if name.lower().endswith(".parquet")]
    shards = tuple(ParquetShard(_file_uri(uri, name), version=names[name]) for name in kept)
    return Dataset(uri, "parquet", shards, None)


def _webdataset(uri: str, names: Mapping[str, str]) -> Dataset:
    kept = [name for name in names if name.lower().endswith(".tar")]
    shards = tuple(TarShard(name[: -len(".tar")], _file_uri(uri, name), version=names[name]) for name in kept)
    return Dataset(uri, "webdataset", shards, None)


def _folder(uri: str, names: Mapping[str, str]) -> Dataset:
    kept = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    ignored = [_key(name) for name in names if not name.lower().endswith(IMAGE_SUFFIXES)]
    dataset = _of_files(
        uri, "folder", [ImageFile(_key(name), _file_uri(uri, name), version=names[name]) for name in kept]
    )
    return replace(dataset, ignored=tuple(ignored[:3]), ignored_count=len(ignored))


def _deepfashion(uri: str, names: Mapping[str, str]) -> Dataset:
    maps = {name for name in names if name.startswith("segm/")}
    files = []
    for name in names:
        if name.startswith("images/") and name.lower().endswith(IMAGE_SUFFIXES):
            key = name.removeprefix("images/")
            segm = f"segm/{key[: key.rfind('.')]}_segm.png"
            truth = join(uri, segm) if segm in maps else None
            version = f"{names[name]} {names[segm]}" if segm in maps else names[name]
            files.append(ImageFile(_key(key), join(uri, name), truth, version))
    return _of_files(uri, "deepfashion", files)


def _key(name: str) -> str:
    """Return a file's name as text that Arrow can hold: what is not UTF-8 in it becomes an escape."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _of_files(uri: str, dataset_format: Format, files: Sequence[ImageFile]) -> Dataset:
    ordered = sorted(files, key=lambda file: file.image_id)
    shards: tuple[Shard, ...] = tuple(
        FileShard(tuple(ordered[start : start + FILES_PER_SHARD])) for start in range(0, len(ordered), FILES_PER_SHARD)
    )
    return Dataset(uri, dataset_format, shards, len(ordered))


# --- COCO ------------------------------------------------------------------------------------------------------------


def _coco(uri: str, annotations: str | None) -> Dataset:
    """List a COCO dataset; the file is parsed on the driver (convert millions of images by jobs/shard.py instead)."""
    json_uri = annotations or uri
    if not json_uri.endswith(".json"):
        raise DatasetError(f"{uri}: --format coco needs the instances_*.json, as --images or as --annotations")
    content = read_json(json_uri)
    try:
        names = {int(row["id"]): writable(str(row["name"])) for row in content["categories"]}
        by_image: dict[Any, list[Any]] = defaultdict(list)
        for row in content["annotations"]:
            by_image[row["image_id"]].append(row)
        images = [
            (writable(str(row["file_name"])), (int(row["height"]), int(row["width"])), row["id"])
            for row in content["images"]
        ]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DatasetError(f"{json_uri}: not a COCO instances file ({type(error).__name__}: {error})") from error
    if not images:
        raise DatasetError(f"{json_uri}: lists no images")
    _check_unique((file_name for file_name, _, _ in images), f"{json_uri}: two images have the file_name")
    _check_unique((identity for _, _, identity in images), f"{json_uri}: two images have the id")
    root = uri if annotations else _coco_image_root(json_uri, images[0][0])
    files = [
        ImageFile(file_name, _below(root, file_name), CocoTruth(size_hw, tuple(by_image[identity]), names))
        for file_name, size_hw, identity in images
    ]
    return _of_files(uri, "coco", files)


def _below(root: str, file_name: str) -> str | None:
    """Return the URI of an image of a COCO file; None where it would lie elsewhere: who wrote the file may not choose
    what else of this machine is read."""
    return None if ".." in file_name.split("/") else join(root, file_name)


def _coco_image_root(json_uri: str, first_file_name: str) -> str:
    folder = json_uri.rsplit("/", 1)[0] if "/" in json_uri else "."
    split = base_name(json_uri).removesuffix(".json").removeprefix("instances_")
    candidates = [
        folder,
        join(folder, "images"),
        join(folder, "..", split),
        join(folder, "..", "images"),
        join(folder, "..", "images", split),
    ]
    candidates = [_normal(candidate) for candidate in candidates]
    for candidate in candidates:
        if exists(join(candidate, first_file_name)):
            return candidate
    raise DatasetError(
        f"{json_uri}: its first image {first_file_name!r} is in none of {', '.join(candidates)}; give the image "
        "folder as --images and this file as --annotations"
    )


def _normal(uri: str) -> str:
    """Resolve `..` in a URI: object stores have no parent folders."""
    parts: list[str] = []
    for part in uri.split("/"):
        if part == ".." and parts and parts[-1] not in {"..", "."}:
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


# --- keys ------------------------------------------------------------------------------------------------------------


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
        hashes: Of all its keys.
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


def _check_unique(keys: Iterable[Any], complaint: str) -> None:
    seen: set[Any] = set()
    for key in keys:
        if key in seen:
            raise DatasetError(f"{complaint} {key!r}")
        seen.add(key)


# --- references ------------------------------------------------------------------------------------------------------


def choose_references(dataset: Dataset, categories: Sequence[str], image_ids: Sequence[str]) -> dict[str, list[str]]:
    """Choose the reference photos of each category among annotated images.

    Args:
        dataset: With annotations.
        categories: At least one.
        image_ids: These photos; empty takes for each category the first in key order that holds it.

    Raises:
        DatasetError: A category or an id is nowhere.
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
    """Walk keys and categories; files are in order already, the keys of Parquet shards are gathered and sorted."""
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
        if row["error"]:
            raise BadReferenceError(row["error"])
        image_hw3 = decode_image(row["image"] or b"")
        size_hw = (image_hw3.shape[0], image_hw3.shape[1])
        check_truth(row, size_hw)
        return Reference(category, image_hw3, category_mask(row["annotations"] or [], category, size_hw))
    except (BadReferenceError, BadImageError, BadAnnotationError) as error:
        raise BadReferenceError(f"reference {row['image_id']!r}: {error}") from error
