"""Writing: one file for each call and run, named after its keys; one summary row of each."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from persam_ray.data.parquet import ParquetShard
from persam_ray.data.schema import IMAGES, MATCHES, PREDICTIONS, instance_row, prediction_row
from persam_ray.metrics.scores import metrics_of
from persam_ray.runs.counts import Counts
from persam_ray.runs.effort import CacheUse, Effort
from persam_ray.stages.judge import JudgeOptions
from persam_ray.stages.tables import LABELED, WRITTEN
from persam_ray.stages.write import Run, WriteImages, WritePredictions
from persam_ray.types import Segmentation
from tests.stages.read_rows import CUP, MASK, read_row, read_table

FOUND = MASK.copy()


FOUND[10:20, 10:20] = False  # 100 of the 200 pixels


INSTANCE = Segmentation("cup", FOUND, (20.0, 10.0, 30.0, 20.0), 0.5, similarity=0.75, predicted_iou=0.25)


def labeled_row(image_id: str, **fields: Any) -> dict[str, Any]:
    row = prediction_row(image_id, (40, 60), None, [instance_row(INSTANCE)])
    return row | {"annotations": None, "method": "persam", "seconds": [("persam", 0.25)]} | fields


def labeled_table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=LABELED)


ROWS = (
    labeled_row("a", annotations=[CUP]),
    labeled_row("b", annotations=[CUP]),
    labeled_row("c"),
    prediction_row("d", None, "damaged") | {"annotations": [CUP], "method": "persam", "seconds": [("decode", 0.5)]},
)


def writing(folder: Path, *categories: str, reference_ids: frozenset[str] = frozenset()) -> WritePredictions:
    return WritePredictions({"": Run(str(folder), "persam", JudgeOptions(categories or ("cup",)))}, reference_ids)


def written_by(writer: WritePredictions | WriteImages, table: pa.Table, folder: Path) -> tuple[dict[str, Any], str]:
    """Write a table; return the row that goes on, and the name of the one file of it that is new."""
    before = written(folder)
    (row,) = writer(table).to_pylist()
    (name,) = written(folder) - before
    return row, name


def written(folder: Path) -> set[str]:
    """Return the files of predictions or images, not those of matches."""
    files = {str(path.relative_to(folder)) for path in folder.rglob("*.parquet")}
    return {name for name in files if not name.startswith("matches/")}


def test_predictions_are_one_parquet_file_of_the_contract(tmp_path: Path) -> None:
    _, name = written_by(writing(tmp_path), labeled_table(*ROWS), tmp_path)
    table = pq.read_table(tmp_path / name)
    assert table.schema.equals(PREDICTIONS)
    assert table.to_pylist() == [{key: row[key] for key in PREDICTIONS.names} for row in ROWS]


def test_the_summary_counts_rows_and_compares_with_the_truth(tmp_path: Path) -> None:
    row, _ = written_by(writing(tmp_path, "cup", "spoon"), labeled_table(*ROWS), tmp_path)
    assert row["run"] == ""
    assert Counts.from_json(row["counts"]) == Counts(4, 3, 1, 3, {"damaged": 1})
    cup, spoon = (metrics_of([row["judged"]]).categories[name] for name in ("cup", "spoon"))
    # a and b: 100 of 200 pixels each; c has no truth, d failed
    assert (cup["miou"], cup["tp"], cup["fp"], cup["fn"]) == (0.5, 2, 0, 0)
    assert (spoon["miou"], spoon["tp"], spoon["fp"], spoon["fn"]) == (None, 0, 0, 0)


def test_the_summary_adds_up_what_the_rows_took_and_counts_the_cache(tmp_path: Path) -> None:
    looked_up = [("hit", None), ("miss", "s3://me:pw@b: no"), ("not_kept", None), (None, None)]
    rows = [
        row | {"cache": outcome, "cache_failure": failure}
        for row, (outcome, failure) in zip(ROWS, looked_up, strict=True)
    ]
    summary, name = written_by(writing(tmp_path), labeled_table(*rows), tmp_path)
    effort = Effort.from_json(summary["effort"])
    assert name == f"predictions/{summary['file']}"
    assert (effort.seconds["persam"], effort.seconds["decode"]) == (0.75, 0.5)
    assert effort.seconds["write"] > 0
    assert effort.cache == CacheUse(hits=1, misses=2, not_kept=1, failure="s3://b: no")


def test_references_are_labeled_but_not_compared(tmp_path: Path) -> None:
    writer = writing(tmp_path, reference_ids=frozenset({"b"}))
    row, _ = written_by(writer, labeled_table(*ROWS), tmp_path)
    counts = Counts.from_json(row["counts"])
    assert (counts.images, counts.instances) == (4, 3)
    assert metrics_of([row["judged"]]).categories["cup"]["tp"] == 1


def test_without_truth_there_is_nothing_to_compare(tmp_path: Path) -> None:
    row, _ = written_by(writing(tmp_path), labeled_table(ROWS[2], ROWS[3]), tmp_path)
    assert row["judged"] is None


def test_a_retried_task_writes_the_same_file_again(tmp_path: Path) -> None:
    writer = writing(tmp_path)
    summary, name = written_by(writer, labeled_table(*ROWS), tmp_path)
    (again,) = writer(labeled_table(*reversed(ROWS))).to_pylist()  # a retry may see its rows in another order
    assert metrics_of([again.pop("judged")]) == metrics_of([summary.pop("judged")])
    assert (
        Effort.from_json(again.pop("effort")).seconds.keys() == Effort.from_json(summary.pop("effort")).seconds.keys()
    )
    assert again == summary
    assert written(tmp_path) == {name}
    assert len(list((tmp_path / "matches").iterdir())) == 1
    _, other = written_by(writer, labeled_table(*ROWS[:3]), tmp_path)
    assert other != name


def test_keys_that_join_to_the_same_text_have_files_of_their_own(tmp_path: Path) -> None:
    writer = writing(tmp_path)
    written_by(writer, labeled_table(labeled_row("a"), labeled_row("bc")), tmp_path)
    written_by(writer, labeled_table(labeled_row("ab"), labeled_row("c")), tmp_path)
    assert len(written(tmp_path)) == 2


def test_matches_are_written_beside_with_the_areas_of_their_objects(tmp_path: Path) -> None:
    writing(tmp_path)(labeled_table(*ROWS))
    (path,) = (tmp_path / "matches").iterdir()
    table = pq.read_table(path)
    assert table.schema.equals(MATCHES)
    assert [(row["image_id"], row["kind"], row["iou"], row["area"]) for row in table.to_pylist()] == [
        ("a", "tp", 0.5, 200),
        ("b", "tp", 0.5, 200),
    ]


def test_each_run_takes_the_rows_of_its_method_and_may_drop_small_parts(tmp_path: Path) -> None:
    speck = MASK.copy()
    speck[39, 59] = True
    two_parts = Segmentation("cup", speck, (10.0, 10.0, 60.0, 40.0), 0.5)
    rows = [
        labeled_row("a", instances=[instance_row(two_parts)], annotations=[CUP]),
        labeled_row("a", instances=[], annotations=[CUP], method="persam_f"),
    ]
    judge = JudgeOptions(("cup",), objects="component")
    runs = {
        "persam": Run(str(tmp_path / "persam"), "persam", judge),
        "filtered": Run(str(tmp_path / "filtered"), "persam", judge, min_area_fraction=0.001),
        "persam_f": Run(str(tmp_path / "persam_f"), "persam_f", judge),
    }
    summaries = {row["run"]: row for row in WritePredictions(runs)(labeled_table(*rows)).to_pylist()}
    assert {name: Counts.from_json(row["counts"]).instances for name, row in summaries.items()} == {
        "persam": 1,
        "filtered": 1,
        "persam_f": 0,
    }
    counts = {name: metrics_of([row["judged"]]).categories["cup"] for name, row in summaries.items()}
    assert {name: (row["tp"], row["fp"], row["fn"]) for name, row in counts.items()} == {
        "persam": (1, 1, 0),
        "filtered": (1, 0, 0),
        "persam_f": (0, 0, 1),
    }
    ((kept,),) = pq.read_table(tmp_path / "filtered" / "predictions")["instances"].to_pylist()
    assert (kept["area"], kept["box_xyxy"], kept["rle"]) == (200, [10.0, 10.0, 30.0, 20.0], CUP["rle"])


Reported = list[tuple[int, int]]


def test_images_are_written_as_they_came_and_can_be_read_again(tmp_path: Path) -> None:
    reported: Reported = []
    rows = (
        read_row("a", annotations=[CUP], height=40, width=60),
        read_row("ü #1.jpg", image=b"", error="the file cannot be read: gone"),
    )
    writer = WriteImages(str(tmp_path), lambda *numbers: reported.append(numbers))
    row, name = written_by(writer, read_table(*rows), tmp_path)
    assert row == {"images": 2, "problems": ["ü #1.jpg: the file cannot be read: gone"]}
    assert reported == [(2, 1)]
    assert pq.read_schema(tmp_path / name).equals(IMAGES)
    (table,) = ParquetShard(str(tmp_path / name)).read()
    assert table.to_pylist() == [
        {"height": None, "width": None, "annotations": None} | given | {"error": None, "version": ""} for given in rows
    ]


def test_a_shard_can_be_read_a_few_photos_at_a_time(tmp_path: Path) -> None:
    table = read_table(*(read_row(f"{index:03}") for index in range(70)))
    row, name = written_by(WriteImages(str(tmp_path), lambda *_: None), table, tmp_path)
    assert row == {"images": 70, "problems": []}
    metadata = pq.read_metadata(tmp_path / name)
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == [32, 32, 6]


def test_a_retried_shard_is_the_same_file(tmp_path: Path) -> None:
    writer = WriteImages(str(tmp_path), lambda *_: None)
    table = read_table(read_row("a"), read_row("b"))
    _, name = written_by(writer, table, tmp_path)
    content = (tmp_path / name).read_bytes()
    assert writer(table).schema == WRITTEN
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == content
