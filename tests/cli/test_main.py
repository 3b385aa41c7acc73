"""The command: what it offers, and that nothing heavy is loaded for its help."""

import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from persam_ray.cli.main import SUBCOMMANDS, main
from persam_ray.options.base import OutputConfig

JOBS = Path(__file__).parents[2] / "jobs"


def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    """Run the command; return its exit status, and what it printed."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code, *capsys.readouterr()


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_the_overview_names_every_subcommand_in_a_line(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    status, shown, _ = ended(capsys, *arguments)
    assert status == 0
    for name, subcommand in SUBCOMMANDS.items():
        assert any(line.split()[:1] == [name] and subcommand.summary in line for line in shown.splitlines())
    assert max(map(len, shown.splitlines())) <= 100


def test_the_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(capsys, "--version")[:2] == (0, f"persam-ray {version('persam-ray')}\n")


def test_an_unknown_subcommand_is_named_with_what_is_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, said = ended(capsys, "lable", "--images", "x")
    assert status == 2
    assert said == f"error: unknown subcommand 'lable'; allowed are {', '.join(SUBCOMMANDS)}\n"


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_subcommand_has_its_options_its_job_and_a_script(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, shown, _ = ended(capsys, name, "--help")
    assert status == 0
    assert f"usage: persam-ray {name}" in shown
    assert issubclass(SUBCOMMANDS[name].load_options(), OutputConfig)
    assert callable(SUBCOMMANDS[name].load_job())
    assert f'main(["{name}", *sys.argv[1:]])' in (JOBS / f"{name.replace('-', '_')}.py").read_text()


HEAVY = {"torch", "ray", "pyarrow", "fsspec", "cv2", "PIL"}


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--help"], HEAVY | {"numpy", "tyro", "rich", "yaml"}),
        (["--version"], HEAVY | {"numpy", "tyro", "rich", "yaml"}),
        *[([name, "--help"], HEAVY) for name in SUBCOMMANDS],
    ],
)
def test_help_comes_at_once_and_loads_neither_models_nor_storage(arguments: list[str], unwanted: set[str]) -> None:
    """A second is expected, two on a busy machine."""
    code = f"""
import sys
from persam_ray.cli.main import main
try:
    main({arguments})
except SystemExit:
    print("loaded:", *{unwanted} & sys.modules.keys())
"""
    started_s = time.perf_counter()
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "loaded:"
    assert time.perf_counter() - started_s < 2


@pytest.mark.parametrize("arguments", [["--help"], ["label", "--help"]], ids=" ".join)
def test_a_reader_that_leaves_ends_the_command_quietly(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [sys.executable, "-m", "persam_ray", *arguments], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (process.returncode, process.stderr) == (1, "")
