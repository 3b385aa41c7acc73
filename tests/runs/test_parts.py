"""Part files: what their footers say, and rows taken out of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from persam_ray.data.schema import PREDICTIONS, prediction_row
from persam_ray.data.storage import StorageError
from persam_ray.keys import image_key, version_key
from persam_ray.runs.counts import Counts
from persam_ray.runs.directory import OutputError
from persam_ray.runs.outcome import check_written
from persam_ray.runs.parts import count_rows, drop_rows, part_name, read_part, write_part


def table(*image_ids: str, **fields: Any) -> pa.Table:
    rows = [prediction_row(image_id, (4, 5), None, version="1-a") | fields for image_id in image_ids]
    return pa.Table.from_pylist(rows, schema=PREDICTIONS)


def test_a_part_tells_keys_versions_counts_and_judgement_without_its_masks(tmp_path: Path) -> None:
    rows = pa.concat_tables([table("a"), table("b", version=None, status="failed", error="the file: gone")])
    counts = write_part(str(tmp_path), rows, b"packed \x00 bytes")
    part = read_part(str(tmp_path), part_name(rows))
    assert counts == part.counts == Counts(2, 1, 1, 0, {"the file": 1})
    assert part.keys.tolist() == [image_key("a"), image_key("b")]
    assert part.versions.tolist() == [version_key("1-a"), 0]
    assert part.judged == b"packed \x00 bytes"
    assert pq.read_table(tmp_path / "predictions" / part.name).schema.equals(PREDICTIONS)


def test_dropped_rows_leave_a_part_of_the_others(tmp_path: Path) -> None:
    rows = table("a", "b", "c")
    write_part(str(tmp_path), rows, None)
    left = drop_rows(str(tmp_path), part_name(rows), np.array([image_key("b")], np.uint64))
    assert left == Counts(2, 2, 0, 0)
    (path,) = (tmp_path / "predictions").iterdir()
    assert path.name == part_name(table("a", "c"))
    assert pq.read_table(path)["image_id"].to_pylist() == ["a", "c"]


def test_rows_are_counted_by_the_files_ends(tmp_path: Path) -> None:
    for rows in (table("a", "b"), table("c")):
        write_part(str(tmp_path), rows, None)
    names = [path.name for path in (tmp_path / "predictions").iterdir()]
    assert count_rows(str(tmp_path), names) == 3
    with pytest.raises(OutputError, match="4 rows were counted, but the files hold 3: another job has written here"):
        check_written(Counts(4, 4), 3)
    check_written(Counts(3, 3), 3)


def test_a_part_that_loses_all_rows_goes_with_its_matches(tmp_path: Path) -> None:
    rows = table("a")
    write_part(str(tmp_path), rows, b"judged")
    (tmp_path / "matches").mkdir()
    (tmp_path / "matches" / part_name(rows)).write_bytes(b"")
    assert drop_rows(str(tmp_path), part_name(rows), None) == Counts()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_file_without_a_footer_is_of_an_earlier_release(tmp_path: Path) -> None:
    (tmp_path / "predictions").mkdir()
    pq.write_table(table("a"), tmp_path / "predictions" / "part-0.parquet")
    with pytest.raises(StorageError, match="written by an earlier release"):
        read_part(str(tmp_path), "part-0.parquet")
