"""A wheel built from the checkout and installed elsewhere has all of it: modules, templates, the model, the command."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.integration.conftest import Ended, finish, manifest_of, start

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
DATA = (
    "persam_ray/py.typed",
    "persam_ray/report/templates/report.html",
    "persam_ray/report/templates/report.css",
    "persam_ray/report/templates/report.js",
    "persam_ray/compact_sam/compact_sam.safetensors",
    "persam_ray/compact_sam/MODEL_CARD.md",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build from a copy of the package alone: nothing else of a checkout, such as an old `build/`, may be needed."""
    source, built = (tmp_path_factory.mktemp(name) for name in ("source", "built"))
    for name in ("persam_ray", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w"]
    subprocess.run([*command, str(built), str(source)], check=True, capture_output=True, text=True)
    (path,) = built.glob("persam_ray-*.whl")
    return path


def test_it_holds_every_module_and_what_they_read(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [path for path in (ROOT / "persam_ray").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert set(DATA) <= {str(path.relative_to(ROOT)) for path in files} <= names
    assert not {name for name in names if name.startswith(("tests/", "jobs/", "benchmarks/"))}


WHERE = """
import ray
import persam_ray
from persam_ray.cluster.session import session

with session():
    print(persam_ray.__file__)
    print(ray.get(ray.remote(lambda: __import__("persam_ray").__file__).remote()))
"""


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; what it depends on is found in this one."""
    place = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(place)}))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # behind its own packages on the path
    command = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install", "-q", "--no-deps"]
    subprocess.run([*command, "--no-index", str(wheel)], check=True, capture_output=True, text=True)
    return place


def test_its_command_labels_the_demo_from_any_folder(installed: Path, demo_benchmark: Ended, demo_folder: Path) -> None:
    """The photos are there: the demo's benchmark has drawn them."""
    clean = {"PYTHONPATH": "", "RAY_ADDRESS": ""}
    site = sysconfig.get_path("purelib", vars={"base": str(installed)})
    command = [str(installed / "bin" / "python"), "-c", WHERE]
    shown = subprocess.run(command, cwd=demo_folder, env=os.environ | clean, capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines() == [f"{site}/persam_ray/__init__.py"] * 2  # a worker's too

    scenes = demo_folder / "demo" / "scenes"
    before = {path: path.stat().st_mtime_ns for path in scenes.rglob("*.*")}
    ended = finish(*start([str(installed / "bin" / "persam-ray"), "label", "--demo"], clean, demo_folder))
    assert ended.status == 0, ended.stderr
    assert ended.left_behind == []
    assert before == {path: path.stat().st_mtime_ns for path in scenes.rglob("*.*")}
    run = demo_folder / "demo" / "labels"
    counts = manifest_of(run)["counts"]
    assert counts["images"] == counts["ok"] == 70
    top = json.loads((run / "metrics.json").read_text())["categories"]["top"]
    assert top["miou"] > 0.1  # its card says what to expect of the SAM that comes along
    assert (run / "report" / "index.html").exists()
