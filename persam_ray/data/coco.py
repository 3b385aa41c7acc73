"""COCO: an `instances_*.json` with polygons or run-length strings, and the folder of its images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from persam_ray.data.annotations import BadAnnotationError, check_area, checked_rle
from persam_ray.data.dataset import Dataset, DatasetError, dataset_of_files
from persam_ray.data.files import ImageFile
from persam_ray.data.schema import annotation_row
from persam_ray.data.storage import base_name, exists, join, read_json
from persam_ray.images import MAX_PIXELS
from persam_ray.masks import rle_object
from persam_ray.text import writable

MAX_COORDINATE_PX = 100_000
"""Points of a polygon may lie outside the image, but not farther than this: drawing takes memory for every pixel."""


@dataclass(frozen=True)
class CocoTruth:
    """The ground truth of one image in a COCO file.

    Attributes:
        size_hw: The image's (h, w) in pixels.
        annotations: The image's entries of the JSON, unchanged.
        category_names: Category names by category id.
    """

    size_hw: tuple[int, int]
    annotations: tuple[Mapping[str, Any], ...]
    category_names: Mapping[int, str]

    @property
    def uri(self) -> None:
        """None: the driver has read the JSON file already."""
        return None

    def read(self, encoded: bytes) -> tuple[list[dict[str, Any]], tuple[int, int]]:  # noqa: ARG002 - the protocol's
        """Return the ANNOTATION rows, and the (h, w) that the JSON states."""
        return from_coco(self.annotations, self.category_names, self.size_hw), self.size_hw

    def categories(self, encoded: bytes) -> frozenset[str]:  # noqa: ARG002 - the protocol's
        """Return the categories of all annotations that are not crowds, without decoding a mask."""
        return frozenset(_category_name(row, self.category_names) for row in self.annotations if not row.get("iscrowd"))


def _category_name(annotation: Mapping[str, Any], names: Mapping[int, str]) -> str:
    """Return an annotation's category; an empty string if it has none, which reading the image then reports."""
    category_id = annotation.get("category_id")
    return names.get(category_id, "") if isinstance(category_id, int) else ""


def from_coco(
    annotations: Iterable[Mapping[str, Any]], category_names: Mapping[int, str], size_hw: tuple[int, int]
) -> list[dict[str, Any]]:
    """Read the annotations of one image of a COCO `instances` file: polygons, uncompressed or compressed RLE.

    Raises:
        BadAnnotationError: The image's size is out of range, or an annotation is malformed or has another size than
            the image; then the message has the annotation's id.
    """
    if min(size_hw) < 1 or size_hw[0] * size_hw[1] > MAX_PIXELS:
        raise BadAnnotationError(
            f"the annotations give the image a size of {size_hw[1]} x {size_hw[0]} pixels; allowed are 1 to "
            f"{MAX_PIXELS / 1e6:.0f} megapixels"
        )
    return [_from_coco_annotation(annotation, category_names, size_hw) for annotation in annotations]


def _from_coco_annotation(
    annotation: Mapping[str, Any], category_names: Mapping[int, str], size_hw: tuple[int, int]
) -> dict[str, Any]:
    name = f"annotation {annotation.get('id', '?')}"
    category_id = annotation.get("category_id")
    if not isinstance(category_id, (int, float)) or category_id not in category_names:
        raise BadAnnotationError(f"{name}: category_id {category_id!r} is not in `categories`")
    rle = _coco_rle(annotation.get("segmentation"), size_hw, name)
    coded = rle_object(rle, size_hw)
    try:
        x, y, width, height = map(float, annotation.get("bbox") or coco_mask.toBbox(coded))
        area = float(annotation.get("area") or coco_mask.area(coded))
    except (TypeError, ValueError) as error:
        raise BadAnnotationError(f"{name}: `bbox` must be four numbers and `area` one ({error})") from error
    check_area(area, name)
    return annotation_row(
        category_names[int(category_id)],
        rle,
        bbox_xywh=(x, y, width, height),
        area=area,
        iscrowd=bool(annotation.get("iscrowd", 0)),
    )


def _coco_rle(segmentation: object, size_hw: tuple[int, int], name: str) -> str:
    height, width = size_hw
    try:
        if isinstance(segmentation, list) and segmentation:
            coded = coco_mask.merge(coco_mask.frPyObjects(_polygons(segmentation, name), height, width))
        elif isinstance(segmentation, dict):
            if list(segmentation.get("size", ())) != [height, width]:
                raise BadAnnotationError(
                    f"{name}: its mask is of size {segmentation.get('size')}, but its image is [{height}, {width}]"
                )
            if isinstance(segmentation["counts"], str):
                return checked_rle(segmentation["counts"], size_hw, name)
            coded = coco_mask.frPyObjects(segmentation, height, width)
        else:
            raise BadAnnotationError(f"{name}: `segmentation` must be polygons or RLE, but it is {segmentation!r:.80}")
    except BadAnnotationError:
        raise
    except Exception as error:  # pycocotools raises bare Exception, TypeError, IndexError, ...
        raise BadAnnotationError(f"{name}: `segmentation` is malformed ({error})") from error
    return checked_rle(coded["counts"].decode("ascii"), size_hw, name)


def _polygons(segmentation: Sequence[Any], name: str) -> list[list[float]]:
    """Return the polygons that enclose something, checked: on NaN or far points pycocotools ends the process."""
    kept = []
    for polygon in segmentation:
        xy = np.asarray(polygon, dtype=np.float64)
        if xy.ndim != 1 or len(xy) % 2 or not (np.abs(xy) <= MAX_COORDINATE_PX).all():
            raise BadAnnotationError(
                f"{name}: a polygon must be x, y, x, y, ... within {MAX_COORDINATE_PX} pixels, but is {polygon!r:.80}"
            )
        if len(xy) >= 6:  # one or two points enclose nothing
            kept.append(xy.tolist())
    if not kept:
        raise BadAnnotationError(f"{name}: no polygon of three points or more: {segmentation!r:.80}")
    return kept


def list_coco(uri: str, annotations: str | None) -> Dataset:
    """List a COCO dataset. The driver parses the whole JSON file: convert millions of images by `persam-ray shard`.

    Args:
        uri: Folder of the images, or the `instances_*.json` itself.
        annotations: URI of the JSON, if `uri` is the folder.

    Raises:
        DatasetError: The JSON is malformed, lists no images or repeats one, or the images cannot be found.
        StorageError: The JSON cannot be read.
    """
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
    return dataset_of_files(uri, "coco", files)


def _below(root: str, file_name: str) -> str | None:
    """Return the URI of an image that a COCO file names; None if the name leads out of the image folder.

    Whoever wrote the file must not choose which other files of this machine are read.
    """
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


def _check_unique(keys: Iterable[Any], complaint: str) -> None:
    seen: set[Any] = set()
    for key in keys:
        if key in seen:
            raise DatasetError(f"{complaint} {key!r}")
        seen.add(key)
