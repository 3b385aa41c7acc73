"""Figures travel with the rows: a task that is done twice and a display that is gone change none of them."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray

from persam_ray.cluster import progress
from persam_ray.cluster.labeling import ModelActors, label_images
from persam_ray.cluster.plan import WorkerPlan, nodes, plan_workers
from persam_ray.cluster.reading import read_rows
from persam_ray.data.listing import open_dataset
from persam_ray.images import resized_size_hw
from persam_ray.stages.detect import DetectOptions
from persam_ray.stages.judge import JudgeOptions
from persam_ray.stages.progress import Report
from persam_ray.stages.rows import TableLabels
from persam_ray.stages.write import Run
from persam_ray.types import DetectionLimits
from tests.integration.conftest import rows_of, save_photos

pytestmark = pytest.mark.ray

PHOTOS = 40
SECONDS = 0.25  # that the stage below says each photo took


class DiesOnce:
    """A model that finds nothing, and whose process dies with the second table that any of its actors is given."""

    def __init__(self, load: Callable[[], Path], _options: DetectOptions, report: Report) -> None:
        self._folder = load()
        self._report = report

    def __call__(self, table: pa.Table) -> pa.Table:
        labels = TableLabels(table, ["persam"])
        for photo in labels.photos:
            self._report(1, 0)
            labels.spend("encode", [photo], SECONDS)
            labels.looked_up(photo, "miss", None)
        if self._is_second_call(len(labels.photos)):
            os._exit(1)  # its rows are lost
        return labels.to_table()

    def _is_second_call(self, photos: int) -> bool:
        calls = len(list(self._folder.iterdir())) + 1
        (self._folder / str(calls)).write_text(str(photos))
        return calls == 2


@pytest.fixture(scope="module")
def plan(shared_ray: None) -> WorkerPlan:
    return plan_workers(nodes(), actors=1)


@pytest.mark.parametrize("is_watched", [True, False])
def test_a_retried_task_and_a_lost_display_change_no_figure(
    is_watched: bool, plan: WorkerPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, counters = progress.start_counter, list[Any]()

    def start_counter() -> Any:
        counters.append(start())
        if not is_watched:
            ray.kill(counters[0])
        return counters[0]

    monkeypatch.setattr(progress, "start_counter", start_counter)
    dataset = open_dataset(str(save_photos(tmp_path / "photos", PHOTOS)))
    (tmp_path / "calls").mkdir()
    options = DetectOptions("cpu", 1, "float32", DetectionLimits())
    frame_hw = partial(resized_size_hw, image_size_px=64)
    actors = ModelActors(DiesOnce, partial(Path, tmp_path / "calls"), options, frame_hw)
    run = Run(str(tmp_path / "run"), "persam", JudgeOptions(("cup",)))
    labeled = label_images(read_rows(dataset, plan), PHOTOS, actors, {"": run}, plan)

    assert len(rows_of(tmp_path / "run")) == PHOTOS
    outcome = labeled.outcomes[""]
    assert outcome.counts.images == PHOTOS
    assert outcome.effort.seconds["encode"] == pytest.approx(PHOTOS * SECONDS)
    assert outcome.effort.cache.misses == PHOTOS
    assert outcome.effort.seconds["decode"] > 0
    assert outcome.effort.seconds["write"] > 0
    given = sum(int(call.read_text()) for call in (tmp_path / "calls").iterdir())
    assert given > PHOTOS  # the lost table's photos were given twice: the test has made a task retry
