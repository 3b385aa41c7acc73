"""The demo end to end, smaller: the photos it draws, the SAM that comes along, every row, the pages."""

import json
from pathlib import Path

import pytest

from persam_ray.benchmark.rows import RUNS, title_of
from tests.integration.conftest import Ended, rows_of

pytestmark = pytest.mark.ray


def test_the_benchmark_prints_the_table_and_says_where_the_report_is(demo_benchmark: Ended, demo_folder: Path) -> None:
    assert all(title_of(run) in demo_benchmark.stderr for run in RUNS)
    page = demo_folder / "demo" / "benchmark" / "report" / "index.html"
    assert str(page) in demo_benchmark.stderr
    assert page.stat().st_size > 50_000
    assert demo_benchmark.left_behind == []
    assert len(list((demo_folder / "demo" / "scenes" / "images").iterdir())) == 70


def test_every_row_was_measured(demo_benchmark: Ended, demo_folder: Path) -> None:
    results = json.loads((demo_folder / "demo" / "benchmark" / "benchmark.json").read_text())
    assert [row["method"] for row in results["rows"]] == list(map(title_of, RUNS))
    assert all(row["error"] is None for row in results["rows"])
    for row in results["rows"]:
        assert len(rows_of(demo_folder / "demo" / "benchmark" / row["run"])) == 8
