"""DeepFashion-MultiModal: photos with their index maps."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from persam_ray.data.annotations import BadAnnotationError, from_mask
from persam_ray.data.deepfashion import DEEPFASHION_CATEGORIES, IndexMap, from_index_map
from persam_ray.data.files import FileShard, ImageFile
from persam_ray.data.listing import open_dataset
from persam_ray.masks import decode_rle
from tests.data.datasets import JPEG, mask, rows_of, write
from tests.data.shards import CUP, MASK, PHOTO, rows_of_shard, write_files
from tests.encoded_images import encoded, huge_png


def test_the_map_beside_a_photo_becomes_its_annotations(tmp_path: Path) -> None:
    segm = tmp_path / "0_segm.png"
    segm.write_bytes(encoded(MASK.astype(np.uint8) * 12))  # class 12 is the bag
    (file,) = write_files(tmp_path, 1)
    shard = FileShard((ImageFile(file.image_id, file.uri, IndexMap(str(segm))),))
    (row,) = rows_of_shard(shard)
    assert (row["height"], row["width"]) == (4, 5)
    assert row["annotations"] == [CUP | {"category": "bag"}]
    assert list(shard.annotated()) == [("0.jpg", frozenset({"bag"}))]


@pytest.mark.parametrize(("content", "reason"), [(None, "annotation cannot be read"), (b"text", "segm map cannot")])
def test_a_bad_map_is_an_error_and_its_photo_is_kept(tmp_path: Path, content: bytes | None, reason: str) -> None:
    segm = tmp_path / "0_segm.png"
    if content is not None:
        segm.write_bytes(content)
    (file,) = write_files(tmp_path, 1)
    shard = FileShard((ImageFile(file.image_id, file.uri, IndexMap(str(segm))),))
    (row,) = rows_of_shard(shard)
    assert reason in row["error"]
    assert (row["image"], row["annotations"]) == (PHOTO + b"\0", None)
    assert list(shard.annotated()) == [("0.jpg", frozenset())]


def test_a_photo_has_another_version_when_it_or_its_map_is_replaced(tmp_path: Path) -> None:
    write(tmp_path, "images/a.jpg", "images/b.jpg")
    write(tmp_path, "segm/a_segm.png", content=b"map")

    def versions() -> dict[str, str]:
        return dict(pair for shard in open_dataset(str(tmp_path)).shards for pair in shard.versions())

    first = versions()
    assert all(first.values())
    write(tmp_path, "segm/a_segm.png", content=b"longer map")
    second = versions()
    assert (second["a.jpg"] != first["a.jpg"], second["b.jpg"] == first["b.jpg"]) == (True, True)
    write(tmp_path, "images/b.jpg", content=JPEG + b"1")
    assert versions()["b.jpg"] != first["b.jpg"]


def test_deepfashion_photos_carry_their_maps(tmp_path: Path) -> None:
    write(tmp_path, "images/WOMEN-a_1.jpg", "images/b.jpg", "readme.txt")
    write(tmp_path, "segm/WOMEN-a_1_segm.png", content=encoded(mask(1, 2, 2, 2).astype(np.uint8) * 12))
    dataset = open_dataset(str(tmp_path))
    assert (dataset.format, dataset.images) == ("deepfashion", 2)
    first, second = rows_of(dataset)
    assert (first["image_id"], second["image_id"]) == ("WOMEN-a_1.jpg", "b.jpg")
    assert first["annotations"] == [from_mask("bag", mask(1, 2, 2, 2))]
    assert second["annotations"] is None


# --- an index map -----------------------------------------------------------------------------------------------------


INDEX_MAP = np.array([[0, 1, 1], [0, 1, 23]], np.uint8)


@pytest.mark.parametrize("mode", ["L", "P"])
def test_an_index_map_holds_one_mask_for_each_class_but_the_background(mode: str) -> None:
    image = Image.fromarray(INDEX_MAP)
    if mode == "P":
        image.putpalette([255 - value for value in range(256) for _ in range(3)])  # colours are of no account
    rows, size_hw = from_index_map(encoded(image))
    assert size_hw == (2, 3)
    assert [row["category"] for row in rows] == ["top", "tie"]
    for row, index in zip(rows, (1, 23), strict=True):
        np.testing.assert_array_equal(decode_rle(row["rle"], size_hw), index == INDEX_MAP)
    assert rows[0]["bbox_xywh"] == [1, 0, 2, 2]
    assert (rows[0]["area"], rows[0]["iscrowd"]) == (3, False)


def test_a_map_of_background_alone_has_no_annotation() -> None:
    assert from_index_map(encoded(np.zeros((3, 4), np.uint8))) == ([], (3, 4))


def test_there_are_24_classes_as_published() -> None:
    assert len(DEEPFASHION_CATEGORIES) == 24
    assert [DEEPFASHION_CATEGORIES[index] for index in (0, 11, 17, 23)] == [
        "background", "footwear", "wrist wearing", "tie",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (encoded(np.full((2, 2), 24, np.uint8)), "indices 0 to 23, but it is uint8 .* values up to 24"),
        (encoded(np.zeros((2, 2, 3), np.uint8)), r"of shape \(2, 2, 3\)"),
        (b"", "cannot be read"),
        (encoded(np.zeros((64, 64), np.uint8))[:60], "cannot be read"),
        (huge_png(20_000), "cannot be read: 20000 x 20000 pixels is more than"),
    ],
)
def test_what_is_no_index_map_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(BadAnnotationError, match=reason):
        from_index_map(content)
