"""Predictions read back: each row is a photo, each mask what was written."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import persam_ray as pr
from persam_ray.data.schema import PREDICTIONS, instance_row, prediction_row
from persam_ray.runs.parts import write_part
from persam_ray.types import Segmentation

MASK = np.zeros((40, 60), dtype=bool)
MASK[10:20, 10:30] = True
FOUND = Segmentation("cup", MASK, (10.0, 10.0, 30.0, 20.0), 0.5, similarity=0.75)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    first = [prediction_row("a", (40, 60), None, [instance_row(FOUND)]), prediction_row("b", (40, 60))]
    second = [prediction_row("c", None, "the image is damaged")]
    for rows in (first, second):
        write_part(str(tmp_path), pa.Table.from_pylist(rows, schema=PREDICTIONS), None)
    return tmp_path


def test_every_row_is_a_photo_with_its_masks(run: Path) -> None:
    photos = {photo.image_id: photo for photo in pr.read_predictions(str(run))}
    assert photos.keys() == {"a", "b", "c"}
    (instance,) = photos["a"].instances
    np.testing.assert_array_equal(instance.mask_hw, MASK)
    assert (instance.category, instance.score, instance.box_xyxy, instance.area) == ("cup", 0.5, FOUND.box_xyxy, 200)
    assert (instance.similarity, instance.predicted_iou) == (0.75, None)
    assert (photos["b"].height, photos["b"].width, photos["b"].instances) == (40, 60, ())
    assert (photos["c"].status, photos["c"].error, photos["c"].height) == ("failed", "the image is damaged", None)


def test_the_folder_of_predictions_may_be_named_itself(run: Path) -> None:
    assert len(list(pr.read_predictions(run / "predictions"))) == 3


def test_a_run_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(pr.PersamRayError, match="nowhere: not found"):
        list(pr.read_predictions(str(tmp_path / "nowhere")))
