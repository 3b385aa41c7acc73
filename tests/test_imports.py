"""What a process loads: reading options and photos waits for neither torch nor Ray. The order of the rooms is held by
`lint-imports` (pyproject.toml)."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def loaded_by(code: str) -> set[str]:
    """Return the top-level packages that a fresh process has loaded after some code."""
    script = f"import sys; {code}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(ended.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "persam_ray.cli.command_line",
        "persam_ray.data.checkpoints",
        "persam_ray.data.listing",
        "persam_ray.options.label",
        "persam_ray.stages.decode",
        "persam_ray.stages.write",
    ],
)
def test_reading_options_and_photos_loads_neither_torch_nor_ray(module: str) -> None:
    assert not loaded_by(f"import {module}") & {"torch", "ray"}


def test_the_package_itself_loads_nothing_heavy() -> None:
    assert not loaded_by("import persam_ray") & {"torch", "ray", "numpy", "pyarrow", "fsspec", "PIL"}
