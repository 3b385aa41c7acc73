"""Training Mask R-CNN on Ray Train, and labeling by it: real workers, one of which is killed."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from persam_ray.mask_rcnn.few_shot import make_optimiser
from persam_ray.mask_rcnn.settings import FewShotSettings
from tests.integration.annotated import save_fashion
from tests.integration.conftest import MARK, S3, JobHere, finish, manifest_of, rows_of, start_job

pytestmark = [pytest.mark.ray, pytest.mark.s3]

BUCKET = "detectors"
RUN = f"s3://{BUCKET}/run"

TINY = ("--category", "top", "--start", "none", "--steps", "6", "--epoch-steps", "2")


@pytest.fixture(scope="module")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_fashion(tmp_path_factory.mktemp("annotated") / "fashion", 4, without_top=1)


def history(output: Path) -> list[dict[str, Any]]:
    content: dict[str, Any] = json.loads((output / "training.json").read_text())
    epochs: list[dict[str, Any]] = content["epochs"]
    return epochs


@pytest.fixture(scope="module")
def trained(fashion: Path, s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train by two workers into a bucket, one of them killed after the first epoch; return a copy of what is there."""
    s3.client().create_bucket(Bucket=BUCKET)
    options = ("--images", str(fashion), "--output", RUN, *TINY, "--workers", "2")
    process, mark = start_job("train_mask_rcnn", *options, env=s3.env)
    killed = kill_worker(mark, s3, after="run/training.json")
    finished = finish(process, mark)
    assert finished.status == 0, finished.stderr
    assert finished.left_behind == []
    assert killed
    copy = tmp_path_factory.mktemp("detector")
    for key in keys(s3):
        (copy / key).parent.mkdir(parents=True, exist_ok=True)
        s3.client().download_file(BUCKET, key, str(copy / key))
    return copy / "run"


def keys(s3: S3) -> list[str]:
    return [entry["Key"] for entry in s3.client().list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def test_a_worker_killed_mid_training_costs_no_epoch(trained: Path) -> None:
    assert [(epoch["epoch"], epoch["steps"]) for epoch in history(trained)] == [(0, 2), (1, 2), (2, 2)]
    optimiser, schedule = make_optimiser(torch.nn.Linear(1, 1), FewShotSettings(steps=6))
    rates = []
    for _ in range(6):
        rates.append(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()
    undisturbed = [(rates[step] + rates[step + 1]) / 2 for step in (0, 2, 4)]
    assert [epoch["learning_rate"] for epoch in history(trained)] == pytest.approx(undisturbed)


def test_training_leaves_weights_a_history_a_checkpoint_and_a_manifest(trained: Path) -> None:
    assert (trained / "mask_rcnn.safetensors").stat().st_size > 10_000_000
    assert len(list((trained / "checkpoints").glob("checkpoint_*/state.pt"))) == 1  # the last
    manifest = manifest_of(trained)
    assert manifest["train_ids"] == ["p00.jpg", "p01.jpg", "p02.jpg"]  # the fourth holds no top
    assert manifest["start"]["used"] == []
    assert "roi_heads.box_predictor.cls_score.weight" in manifest["start"]["random"]
    assert all(0 < epoch["loss"] < 10 for epoch in history(trained))


def test_a_trained_detector_labels_with_the_rows_of_any_labeler(
    trained: Path, fashion: Path, s3: S3, job_here: JobHere, tmp_path: Path
) -> None:
    assert trained.exists()
    images = ("--images", str(fashion), "--output", str(tmp_path / "labels"))
    finished = job_here("predict_mask_rcnn", *images, "--checkpoint", RUN, "--least-score", "0.0", env=s3.env)
    assert finished.status == 0, finished.stderr
    rows = rows_of(tmp_path / "labels")
    assert set(rows) == {f"p{index:02}.jpg" for index in range(4)}
    found = [instance for row in rows.values() for instance in row["instances"]]
    assert found
    assert all(one["similarity"] is None and one["predicted_iou"] is None for one in found)
    assert json.loads((tmp_path / "labels" / "metrics.json").read_text())["categories"]["top"]["fn"] <= 3
    assert (tmp_path / "labels" / "report" / "index.html").exists()


def kill_worker(mark: str, s3: S3, after: str) -> bool:
    """Kill a training worker once a file is in the bucket, which the first epoch writes."""
    deadline_s = time.monotonic() + 300
    while time.monotonic() < deadline_s:
        if after in keys(s3):
            for process in workers(mark):
                process.send_signal(signal.SIGKILL)
                return True
        time.sleep(0.05)
    return False


def workers(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()) and process.environ().get(MARK) == mark:
                yield process
        except psutil.Error:
            continue


# --- what cannot be trained on ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--category", "hat"), "no annotated image holds the category 'hat'; seen: pants, top"),
        (("--category", "top", "--train-ids", "p03.jpg"), "none of the 1 examples holds an object of top"),
    ],
)
def test_what_cannot_be_trained_on_is_said_before_any_training(
    fashion: Path, job_here: JobHere, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    output = tmp_path / "run"
    images = ("--images", str(fashion), "--output", str(output))
    finished = job_here("train_mask_rcnn", *images, "--start", "none", *options)
    assert finished.status == 1
    assert finished.stderr.strip().splitlines()[-1].startswith("error: ")
    assert message in finished.stderr
    assert not (output / "checkpoints").exists()
