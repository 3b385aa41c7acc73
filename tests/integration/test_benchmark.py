"""The benchmark job end to end, on small photos: rows that add up, a row that fails, and what stops it at once."""

import json
from pathlib import Path
from typing import Any

import pytest

from persam_ray.benchmark.rows import RUNS, title_of
from tests.integration.annotated import save_fashion
from tests.integration.conftest import JobHere, manifest_of, rows_of

pytestmark = pytest.mark.ray

ROWS = ("mask_rcnn", "persam", "persam_f", "persam_f_filtered", "mask_rcnn_filtered")
TINY = ("--category", "top", "--train-images", "2", "--test-images", "6", "--steps", "2", "--start", "none")


@pytest.fixture(scope="module")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_fashion(tmp_path_factory.mktemp("annotated") / "fashion", 10, without_top=3)


@pytest.fixture(scope="module")
def compared(fashion: Path, sam_file: str, job_here: JobHere, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("benchmark") / "run"
    images = ("--images", str(fashion), "--output", str(output))
    finished = job_here("benchmark", *images, "--sam", sam_file, *TINY, "--detector-score-threshold", "0.0")
    assert finished.status == 0, finished.stderr
    table = finished.stderr[finished.stderr.index("method") :].splitlines()
    assert [line.strip().split("  ")[0] for line in table[1:6]] == list(map(title_of, RUNS))
    return output


def results_of(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "benchmark.json").read_text())
    return content


def test_the_split_is_disjoint_and_of_the_sizes_asked_for(compared: Path) -> None:
    results = results_of(compared)
    assert (results["train_images"], results["test_images"], results["objects"]) == (2, 6, "component")
    train, test = set(results["train_ids"]), set(results["test_ids"])
    assert (len(train), len(test), train & test) == (2, 6, set())
    assert results["reference_id"] == results["train_ids"][0]
    with_top = {f"p{index:02}.jpg" for index in range(7)}
    assert train <= with_top
    assert results["test_images_with_category"] == len(test & with_top)


def test_every_row_is_a_complete_run_of_the_test_images(compared: Path) -> None:
    results = results_of(compared)
    assert [row["run"] for row in results["rows"]] == list(ROWS)
    for row in results["rows"]:
        assert row["error"] is None
        run = compared / row["run"]
        assert set(rows_of(run)) == set(results["test_ids"])
        assert manifest_of(run)["counts"]["images"] == 6
        figures = json.loads((run / "metrics.json").read_text())["categories"]["top"]
        assert {name: row[name] for name in ("map", "ap50", "tp", "fp", "fn", "miou")} == {
            name: figures[name] for name in ("map", "ap50", "tp", "fp", "fn", "miou")
        }
        assert row["tp"] + row["fn"] == results["test_images_with_category"]  # one disc in each
        assert row["labels"] == (2 if row["run"].startswith("mask_rcnn") else 1)
        assert row["training_s"] > 0
        assert row["images_per_s"] > 0
    assert manifest_of(compared / "training")["train_ids"] == results["train_ids"]


def test_differences_are_to_the_first_row(compared: Path) -> None:
    first, *others = results_of(compared)["rows"]
    assert first["difference_to_first"] is None
    for row in others:
        difference = row["difference_to_first"]["recall"]
        assert difference["difference"] == pytest.approx(row["recall"] - first["recall"])
        assert difference["low"] <= difference["high"]


def test_filtered_rows_hold_no_small_parts_and_as_many_hits(compared: Path) -> None:
    rows = {row["run"]: row for row in results_of(compared)["rows"]}
    for method in ("persam_f", "mask_rcnn"):
        assert rows[f"{method}_filtered"]["fp"] <= rows[method]["fp"]
        assert rows[f"{method}_filtered"]["tp"] == rows[method]["tp"]  # the discs are large
        for row in rows_of(compared / f"{method}_filtered").values():
            assert all(one["area"] >= 0.001 * row["height"] * row["width"] for one in row["instances"])


def test_evaluating_a_row_again_gives_its_figures(
    compared: Path, fashion: Path, job_here: JobHere, tmp_path: Path
) -> None:
    """The inline judging of the benchmark and the joining evaluate job are two ways to one number."""
    output = tmp_path / "eval"
    options = ("--predictions", str(compared / "persam_f"), "--objects", "component", "--output", str(output))
    subset = tmp_path / "tests"
    for part, suffix in (("images", ".jpg"), ("segm", "_segm.png")):
        (subset / part).mkdir(parents=True)
        for image_id in results_of(compared)["test_ids"]:
            name = image_id.removesuffix(".jpg") + suffix
            (subset / part / name).write_bytes((fashion / part / name).read_bytes())
    finished = job_here("evaluate", "--images", str(subset), *options)
    assert finished.status == 0, finished.stderr
    again, own = (json.loads((folder / "metrics.json").read_text()) for folder in (output, compared / "persam_f"))
    assert again == own


def test_the_page_is_there_with_its_photos(compared: Path) -> None:
    page = (compared / "report" / "index.html").read_text(encoding="utf-8")
    assert page.count("<symbol id=") >= 6
    assert "Mask R-CNN" in page
    assert "http" not in page.replace("http-equiv", "")  # it needs no network


def test_a_row_that_fails_does_not_lose_the_others(
    fashion: Path, sam_file: str, job_here: JobHere, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    images = ("--images", str(fashion), "--output", str(output), "--sam", sam_file)
    finished = job_here("benchmark", *images, *TINY[:-1], sam_file)  # a SAM is no start for Mask R-CNN
    assert finished.status == 1
    assert "error: 2 of 5 rows failed: mask_rcnn: Mask R-CNN cannot be trained on" in finished.stderr
    rows = {row["run"]: row for row in results_of(output)["rows"]}
    assert [name for name, row in rows.items() if row["error"]] == ["mask_rcnn", "mask_rcnn_filtered"]
    assert all(rows[name]["difference_to_first"] is None for name in ("persam", "persam_f"))
    assert manifest_of(output / "persam_f")["counts"]["images"] == 6
    assert "the start weights fill 0 of" in (output / "report" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--category", "top", "--train-images", "8"), "8 training images were asked for, but only 7 hold 'top'"),
        (
            ("--category", "top", "--train-images", "7"),
            "300 test images were asked for, but beside the 7 training images",
        ),
        (
            ("--category", "top", "--train-ids", "p08.jpg", "--test-ids", "p01.jpg"),
            "none of the 1 training images holds the category 'top'",
        ),
        (
            ("--category", "top", "--train-ids", "p01.jpg", "--test-ids", "p08.jpg"),
            "none of the 1 test images holds the category 'top'",
        ),
        (("--category", "top", "--train-ids", "p01.jpg", "--test-ids", "p01.jpg"), "--train-ids and --test-ids share"),
        (("--category", "top", "--train-ids", "nowhere"), "no annotated image has the id 'nowhere'"),
    ],
)
def test_what_cannot_be_compared_is_said_before_any_training(
    fashion: Path, sam_file: str, job_here: JobHere, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    output = tmp_path / "run"
    images = ("--images", str(fashion), "--output", str(output), "--sam", sam_file, "--start", "none")
    finished = job_here("benchmark", *images, *options)
    assert finished.status == 1
    assert finished.stderr.strip().splitlines()[-1].startswith("error: ")
    assert message in finished.stderr
    assert not (output / "training").exists()
