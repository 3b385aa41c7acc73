"""Training the compact SAM on Ray Train: drawn scenes, two workers, a killed driver, and going on."""

import json
import signal
import time
from pathlib import Path

import pytest

from persam_ray.data.checkpoints import read_checkpoint
from persam_ray.sam.model import Sam
from tests.integration.conftest import JobHere, finish, start_job

pytestmark = pytest.mark.ray

TINY = (
    "--scenes", "4", "--first-seed", "7", "--backbone", "mobilenetv3_small_050", "--image-size", "128",
    "--layout-steps", "2", "--steps", "4", "--photos-per-step", "4", "--epoch-steps", "2", "--workers", "2",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(job_here: JobHere, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train; kill the driver after the first epoch; go on."""
    output = tmp_path_factory.mktemp("trained") / "run"
    process, mark = start_job("train_sam", "--output", str(output), *TINY)
    deadline_s = time.monotonic() + 120
    while not (output / "training.json").exists():
        assert process.poll() is None, finish(process, mark).stderr
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert finish(process, mark).left_behind == []
    assert not (output / "manifest.json").exists()
    drawn = {path: path.stat().st_mtime_ns for path in (output / "scenes").iterdir()}
    finished = job_here("train_sam", "--output", str(output), *TINY, "--resume")
    assert finished.status == 0, finished.stderr
    assert drawn == {path: path.stat().st_mtime_ns for path in (output / "scenes").iterdir()}
    return output


def test_a_killed_run_goes_on_from_its_last_checkpoint(trained: Path) -> None:
    epochs = json.loads((trained / "training.json").read_text())["epochs"]
    assert [(epoch["epoch"], epoch["steps"]) for epoch in epochs] == [(0, 2), (1, 2), (2, 2)]
    names = {"epoch", "steps", "place", "edge", "kin", "match", "loss", "learning_rate", "seconds"}
    assert [epoch.keys() - names for epoch in epochs] == [set(), *[{"focal", "dice", "iou"}] * 2]
    assert (trained / "manifest.json").exists()


def test_its_weights_are_a_sam(trained: Path) -> None:
    sam = Sam(read_checkpoint(str(trained / "compact_sam.safetensors")))
    assert sam.image_size_px == 128


def test_going_on_with_other_options_is_refused(trained: Path, job_here: JobHere) -> None:
    finished = job_here("train_sam", "--output", str(trained), *TINY, "--resume", "--learning-rate", "1e-4")
    assert finished.status == 1
    assert "--resume: the run at" in finished.stderr
    assert "learning_rate was 0.0005" in finished.stderr
