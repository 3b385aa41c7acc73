"""The scenes that the workers of a training read."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from persam_ray.compact_sam.packed_scenes import draw_views, pack
from persam_ray.training.compact_sam import SCENE, read_scenes
from persam_ray.training.epochs import TrainingError

SIZE_HW = (70, 48)


def write(folder: Path, views: int, columns: list[str]) -> None:
    """Write so many views of scenes 5 and 6, which hold the given columns."""
    rows = []
    for seed in (6, 5):
        for view, drawn in enumerate(draw_views(seed, SIZE_HW)[:views]):
            scene = pack(drawn)
            files = {"jpeg": scene.jpeg, "object_map": scene.object_map_png, "groups": scene.object_groups}
            rows.append({"seed": seed, "view": view, **files})
    (folder / "scenes").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, SCENE).select(columns), folder / "scenes" / "part-0.parquet")


def test_scenes_are_read_in_both_views_by_seed(tmp_path: Path) -> None:
    write(tmp_path, 2, SCENE.names)
    read = read_scenes(str(tmp_path))
    for seed, views in zip((5, 6), read, strict=True):
        for view, drawn in zip(views, draw_views(seed, SIZE_HW), strict=True):
            assert view.jpeg == drawn.jpeg
            assert np.array_equal(view.object_map_hw, drawn.object_map_hw)


@pytest.mark.parametrize("views", [1, 2])
def test_scenes_that_were_drawn_without_views_are_refused(views: int, tmp_path: Path) -> None:
    write(tmp_path, views, [name for name in SCENE.names if name != "view"])
    with pytest.raises(TrainingError, match=r"not every scene below .* has two views: draw them anew \(--overwrite\)"):
        read_scenes(str(tmp_path))
