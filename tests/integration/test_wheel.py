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

from tests.integration.conftest import Ended

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
    """Build from a copy of the tracked files: what lies about in a checkout must not be needed."""
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
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "persam_ray").rglob("*.py")}
    assert modules | set(DATA) <= names
    assert not {name for name in names if name.startswith(("tests/", "jobs/", "benchmarks/"))}


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


def test_its_command_labels_the_demo_from_any_folder(
    installed: Path, demo_benchmark: Ended, demo_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(demo_folder / "demo" / "scenes", tmp_path / "demo" / "scenes")  # drawn once for all tests
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(installed / "bin" / name), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)

    assert str(installed) in run("python", "-c", "import persam_ray; print(persam_ray.__file__)").stdout
    ended = run("persam-ray", "label", "--demo")
    assert ended.returncode == 0, ended.stderr
    manifest = json.loads((tmp_path / "demo" / "labels" / "manifest.json").read_text())
    assert manifest["counts"]["images"] == manifest["counts"]["ok"] == 70
    assert (tmp_path / "demo" / "labels" / "report" / "index.html").exists()
