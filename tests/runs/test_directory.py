"""Run directories: what may be begun, gone on with and overwritten."""

import json
from pathlib import Path

import pytest

from persam_ray.data.storage import StorageError
from persam_ray.runs.directory import OutputError, begin_run, prepare_output


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def old_run(folder: Path) -> Path:
    parts = ("predictions/part-0123456789abcdef.parquet", "matches/part-0123456789abcdef.parquet")
    for name in ("manifest.json", *parts):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"old")
    return folder


def test_a_new_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    prepare_output(str(tmp_path / "a" / "run"), [], overwrite=False)
    assert (tmp_path / "a" / "run").is_dir()
    assert files_below(tmp_path) == []


def test_an_earlier_run_is_not_touched_unasked(tmp_path: Path) -> None:
    before = files_below(old_run(tmp_path / "run"))
    with pytest.raises(OutputError, match=r"--output .*run: holds 3 files already \(manifest\.json, .*use --overwrite"):
        prepare_output(str(tmp_path / "run"), [], overwrite=False)
    assert files_below(tmp_path / "run") == before


def test_overwriting_removes_the_earlier_run_and_nothing_beside_it(tmp_path: Path) -> None:
    old_run(tmp_path / "run*")
    old_run(tmp_path / "run1")
    prepare_output(str(tmp_path / "run*"), [], overwrite=True)
    assert files_below(tmp_path / "run*") == []
    assert len(files_below(tmp_path / "run1")) == 3


def test_what_no_run_writes_is_never_removed(tmp_path: Path) -> None:
    old_run(tmp_path / "run")
    (tmp_path / "run" / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"holds files that no run writes \(holiday\.jpg, \.\.\.\)"):
        prepare_output(str(tmp_path / "run"), [], overwrite=True)
    assert len(files_below(tmp_path / "run")) == 4


@pytest.mark.parametrize(
    ("output", "source"),
    [("photos", "photos"), ("photos/labels", "photos/"), (".", "photos"), ("photos", "photos/cup.jpg")],
)
def test_output_and_input_may_not_lie_within_each_other(tmp_path: Path, output: str, source: str) -> None:
    with pytest.raises(OutputError, match="must not lie within"):
        prepare_output(str(tmp_path / output), [str(tmp_path / source)], overwrite=True)


def test_folders_that_share_the_start_of_their_names_are_apart(tmp_path: Path) -> None:
    assert prepare_output(str(tmp_path / "photos-labels"), [str(tmp_path / "photos")], overwrite=False)


def test_a_relative_output_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # workers may have another working directory
    assert prepare_output("run", [], overwrite=False) == str(tmp_path / "run")


def test_a_run_is_gone_on_with_only_by_the_same(tmp_path: Path) -> None:
    identity = {"--method": "persam", "--reference-ids": ["a"], "references": {"top": ["sha256:1"]}, "area": 0.5}
    (first,) = begin_run(str(tmp_path), identity, "1")
    (tmp_path / "manifest.json").write_text("{}")
    runs = begin_run(str(tmp_path), identity, "2")
    assert [run["run_id"] for run in runs] == ["1", "2"]
    assert first["started"] <= runs[1]["started"]
    assert not (tmp_path / "manifest.json").exists()
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "part-0000000000000000.parquet").write_bytes(b"")
    changes: list[tuple[dict[str, object], str]] = [
        ({"--method": "persam_f"}, "--method was persam, and now is persam_f"),
        ({"--reference-ids": ["b"]}, r"--reference-ids was \['a'\], and now is \['b'\]"),
        ({"references": {"top": ["sha256:2"]}}, "whose references differ"),
        ({"new": 1.0}, "new was None, and now is 1.0"),
    ]
    for changed, says in changes:
        with pytest.raises(OutputError, match=says):
            begin_run(str(tmp_path), identity | changed, "3")


def test_a_run_that_failed_before_it_labeled_anything_binds_nobody(tmp_path: Path) -> None:
    begin_run(str(tmp_path), {"--sam": "damaged"}, "1")
    (mended,) = begin_run(str(tmp_path), {"--sam": "mended"}, "2")
    assert mended["run_id"] == "2"
    assert json.loads((tmp_path / "run.json").read_text())["identity"] == {"--sam": "mended"}


@pytest.mark.parametrize("content", ["[]", "{}", '{"identity": null, "runs": []}', '{"identity": {}, "runs": 1}'])
def test_a_damaged_run_file_is_said_to_be_so(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(OutputError, match=r"its run\.json is damaged"):
        begin_run(str(tmp_path), {}, "1")


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"")
    with pytest.raises(StorageError, match="run: cannot be written"):
        prepare_output(str(tmp_path / "run"), [], overwrite=True)
    assert (tmp_path / "run").is_file()
