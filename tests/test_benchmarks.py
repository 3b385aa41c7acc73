"""The scripts of benchmarks/ load: they use modules that change without them."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "benchmarks"


def test_every_benchmark_loads() -> None:
    names = sorted(path.stem for path in FOLDER.glob("*.py"))
    assert len(names) > 5
    code = f"import importlib; [importlib.import_module(name) for name in {names}]"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert loaded.returncode == 0, loaded.stderr
