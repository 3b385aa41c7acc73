"""The evaluate job on the label job's output: the same figures, and rows that do not belong together are named."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.integration.annotated import save_fashion
from tests.integration.conftest import JobHere

pytestmark = pytest.mark.ray

PHOTOS = 12


@pytest.fixture(scope="module")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_fashion(tmp_path_factory.mktemp("annotated") / "fashion", PHOTOS)


@pytest.fixture(scope="module")
def run(
    fashion: Path, job_here: JobHere, sam_file: str, reference: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("labels") / "run"
    finished = job_here(
        "label", "--images", str(fashion), "--output", str(output), "--sam", sam_file, "--reference", f"top={reference}"
    )
    assert finished.status == 0, finished.stderr
    return output


def test_evaluating_a_run_gives_the_figures_that_it_gave_itself(
    run: Path, fashion: Path, job_here: JobHere, tmp_path: Path
) -> None:
    options = ("--predictions", str(run), "--images", str(fashion), "--output", str(tmp_path / "eval"))
    finished = job_here("evaluate", *options)
    assert finished.status == 0, finished.stderr
    assert f"{PHOTOS} images judged, 0 without ground truth left out" in finished.stderr
    evaluated = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert evaluated == json.loads((run / "metrics.json").read_text())
    matches = pq.read_table(tmp_path / "eval" / "matches").to_pylist()
    hits = sum(match["kind"] == "tp" for match in matches)
    assert hits == evaluated["categories"]["top"]["tp"]
    assert hits + sum(match["kind"] == "fn" for match in matches) == PHOTOS


def changed(run: Path, folder: Path, rows: slice) -> Path:
    """Copy a run with only some of its rows."""
    shutil.copytree(run, folder)
    table = pq.read_table(run / "predictions")
    shutil.rmtree(folder / "predictions")
    (folder / "predictions").mkdir()
    pq.write_table(table[rows], folder / "predictions" / "part.parquet")
    return folder


def test_a_missing_row_is_an_error_that_names_it(run: Path, fashion: Path, job_here: JobHere, tmp_path: Path) -> None:
    missing = sorted(pq.read_table(run / "predictions")["image_id"].to_pylist()[1:])
    broken = changed(run, tmp_path / "broken", slice(0, 1))
    finished = job_here(
        "evaluate", "--predictions", str(broken), "--images", str(fashion), "--output", str(tmp_path / "out")
    )
    assert finished.status == 1
    assert finished.stderr.startswith(f"error: {broken}: has no row for the image ")
    assert any(repr(name) in finished.stderr for name in missing)
    assert "retried" not in finished.stderr  # Ray's advice to whoever calls it
    assert finished.stderr.count("\n") == 1
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_a_category_that_nobody_has_is_an_error(run: Path, fashion: Path, job_here: JobHere, tmp_path: Path) -> None:
    finished = job_here(
        "evaluate", "--predictions", str(run), "--images", str(fashion), "--output", str(tmp_path / "out"),
        "--category", "dress",
    )  # fmt: skip
    assert finished.status == 1
    assert "no annotated image holds the category 'dress'" in finished.stderr
