"""The benchmark's page from run directories: which objects each picture shows, and what the words say."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from persam_ray.benchmark.rows import AnyResult, FailedMethod, MethodResult, as_json, charts, table
from persam_ray.console import show_table
from persam_ray.data.dataset import Dataset
from persam_ray.data.listing import open_dataset
from persam_ray.data.schema import instance_row, prediction_row
from persam_ray.metrics.scores import accumulate
from persam_ray.metrics.summary import merged
from persam_ray.report.benchmark_page import MethodRun, write_benchmark_report
from persam_ray.report.results import BenchmarkResults, MethodFigures
from persam_ray.stages.judge import JudgeOptions
from persam_ray.stages.tables import LABELED
from persam_ray.stages.write import Run, WritePredictions
from persam_ray.types import BoolArray, Segmentation
from tests.conftest import disc
from tests.integration.annotated import save_fashion

PHOTOS, WITHOUT_TOP = 6, 2
JUDGE = JudgeOptions(("top",), score_threshold=0.5, objects="component")


def instance(mask: BoolArray, score: float) -> Segmentation:
    rows, columns = np.nonzero(mask)
    return Segmentation(
        "top", mask, (float(columns.min()), float(rows.min()), columns.max() + 1.0, rows.max() + 1.0), score
    )


def found_in(index: int, size: tuple[int, int], shift: int) -> tuple[Segmentation, ...]:
    """The disc, moved to the right; with a stray in the corner of the third photo; nothing in the first."""
    if index == 0:
        return ()
    stray = np.zeros(size, np.bool_)
    stray[:6, :6] = True
    return (instance(np.roll(disc(*size), shift, axis=1), 0.9), *([instance(stray, 0.7)] if index == 2 else []))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(str(save_fashion(tmp_path_factory.mktemp("photos") / "f", PHOTOS, without_top=WITHOUT_TOP)))


def write_run(folder: Path, dataset: Dataset, method: str, shift: int, failed: Collection[str] = ()) -> MethodResult:
    rows = [row for shard in dataset.shards for table in shard.read() for row in table.to_pylist()]
    labeled = [
        (
            prediction_row(row["image_id"], size, "no luck")
            if row["image_id"] in failed
            else prediction_row(row["image_id"], size, None, list(map(instance_row, found_in(index, size, shift))))
        )
        | {"annotations": row["annotations"], "method": method, "seconds": []}
        for index, row in enumerate(rows)
        for size in [(row["height"], row["width"])]
    ]
    table = pa.Table.from_pylist(labeled, schema=LABELED)
    (written,) = WritePredictions({method: Run(str(folder / method), method, JUDGE)})(table).to_pylist()
    summary = merged([written["judged"]])
    return MethodResult(method, 1, 1.5, 4.0, 0, summary, accumulate(summary))


def results(rows: Sequence[AnyResult], dataset: Dataset) -> BenchmarkResults:
    return {
        "category": "top",
        "train_images": 2,
        "test_images": PHOTOS,
        "test_images_with_category": 4,
        "objects": "component",
        "iou_threshold": 0.5,
        "min_area_fraction": 0.001,
        "seed": 0,
        "reference_id": "r.jpg",
        "train_ids": ["r.jpg", "s.jpg"],
        "test_ids": [image_id for shard in dataset.shards for image_id in shard.image_ids()],
        "rows": as_json(rows, "top", seed=0),
    }


@pytest.fixture(scope="module")
def page(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("benchmark")
    rows = [write_run(folder, dataset, method, shift) for method, shift in (("persam", 12), ("persam_f", 1))]
    runs = [MethodRun(method, str(folder / method), JUDGE) for method in ("persam", "persam_f")]
    all_rows: list[AnyResult] = [*rows, FailedMethod("mask_rcnn", "no <luck>")]
    uri = write_benchmark_report(str(folder), dataset, results(all_rows, dataset), runs, charts(all_rows, "top"))
    return Path(uri).read_text(encoding="utf-8")


def part(page: str, title: str, group: str) -> str:
    """Return the figures of a group of a gallery."""
    gallery = page[page.index(f"<h2>{title}</h2>") :]
    found = gallery[gallery.index(f"<h3>{group}") :]
    return found[: found.index("</div>")] if 'class="shots"' in found[:200] else found[:200]


def test_galleries_show_the_matches_of_each_kind(page: str) -> None:
    hits = part(page, "persam_f", "True positives")
    assert hits.count("<figure") == 3  # the discs of photos 1 to 3, moved by one pixel
    assert "score 0.90, IoU 0.9" in hits
    strays = part(page, "persam_f", "False positives")
    assert strays.count("<figure") == 3  # a stray in photo 2, and discs in the two without a top
    misses = part(page, "persam_f", "False negatives")
    assert misses.count("<figure") == 1
    assert "best IoU 0.00" in misses
    assert "p00.jpg" in misses


def test_the_same_photos_are_shown_by_every_method(page: str) -> None:
    compared = page[page.index("by every method") : page.index("<h2>persam</h2>")]
    assert compared.count('class="row shots"') == 4  # those with a top
    assert compared.count("<figure") == 4 * 3
    assert compared.count("nothing found") == 2


def test_the_words_say_what_the_figures_do(page: str) -> None:
    assert "Best here, by AP50: PerSAM-F, given one label. It finds 75% of the objects" in page
    assert "of what it reports, 50% is right" in page
    assert "PerSAM-F, given one label, " in page
    assert "4 with the category" in page
    assert "failed: no &lt;luck&gt;" in page


def test_with_every_row_failed_the_page_says_so(dataset: Dataset, tmp_path: Path) -> None:
    rows = [FailedMethod("mask_rcnn", "no luck"), FailedMethod("persam", "none either")]
    uri = write_benchmark_report(str(tmp_path), dataset, results(rows, dataset), [], charts(rows, "top"))
    content = Path(uri).read_text(encoding="utf-8")
    assert "Every method failed" in content
    assert "failed: none either" in content


def test_rows_follow_the_json_of_the_contract(dataset: Dataset, tmp_path: Path) -> None:
    row = write_run(tmp_path, dataset, "persam", 1)
    (described,) = as_json([row], "top", seed=0)
    contract = (
        "method run labels map ap50 ap75 tp fp fn score_threshold precision recall f1 miou training_s images_per_s"
    )
    assert set(contract.split()) <= described.keys()
    assert (described["tp"], described["fp"], described["fn"], described["score_threshold"]) == (3, 3, 1, 0.5)
    assert described["miou"] == row.metrics.categories["top"]["miou"]


def test_a_photo_that_could_not_be_used_is_in_no_picture(tmp_path: Path) -> None:
    """Its map is of another size: it holds the category by name, but no row of it was judged."""
    folder = save_fashion(tmp_path / "f", 3)
    Image.fromarray(np.ones((7, 9), np.uint8)).save(folder / "segm" / "p00_segm.png")
    dataset = open_dataset(str(folder))
    row = write_run(tmp_path, dataset, "persam", 1, failed=("p00.jpg",))
    run = MethodRun("persam", str(tmp_path / "persam"), JUDGE)
    uri = write_benchmark_report(str(tmp_path), dataset, results([row], dataset), [run], charts([row], "top"))
    content = Path(uri).read_text(encoding="utf-8")
    assert content.count('class="row shots"') == 2
    assert "p00.jpg" not in content


def test_errors_with_brackets_are_shown_as_they_are(capsys: pytest.CaptureFixture[str], dataset: Dataset) -> None:
    error = "[/gloo/pair.cc:534] [enforce fail] closed by peer"
    show_table(table(as_json([FailedMethod("mask_rcnn", error)], "top", seed=0)))
    assert error in " ".join(capsys.readouterr().err.split())


def test_rows_judged_on_different_photos_are_not_compared(dataset: Dataset, tmp_path: Path) -> None:
    whole = write_run(tmp_path / "a", dataset, "mask_rcnn", 1)
    part = write_run(tmp_path / "b", dataset, "persam", 1, failed=("p01.jpg",))
    first, second = as_json([whole, part], "top", seed=0)
    assert second["difference_to_first"] is None
    assert (first["tp"], second["tp"]) == (3, 2)


def test_a_failed_row_has_the_keys_of_any_other(dataset: Dataset, tmp_path: Path) -> None:
    good, bad = as_json(
        [write_run(tmp_path, dataset, "mask_rcnn", 1), FailedMethod("persam", "no luck")], "top", seed=0
    )
    assert list(bad) == list(good) == list(MethodFigures.__annotations__)
    assert {value for name, value in bad.items() if name not in {"method", "run", "error"}} == {None}
