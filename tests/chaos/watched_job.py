"""Shared by the scripts of this folder: drawn photos, a label job that is watched while it runs, and checked claims."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pyarrow.dataset as ds

from persam_ray.console import console
from persam_ray.demo.dataset import write_scene

ROOT = Path(__file__).parents[2]
SIZE_HW = (280, 192)
TIMEOUT_S = 900
MARK = "PERSAM_RAY_CHAOS"


@dataclass(frozen=True)
class Ended:
    """A job that has ended: its exit status, duration, longest pause between photos, and last output.

    Attributes:
        status: Exit status; negative after a signal.
        done: Photos labeled, by the job's own progress bar.
    """

    status: int
    done: int
    wall_s: float
    pause_s: float
    said: str

    @property
    def summary(self) -> str:
        return f"exit status {self.status} after {self.wall_s:.1f} s, at most {self.pause_s:.1f} s without a photo done"


def draw(folder: Path, count: int) -> Path:
    """Draw small scenes with their truth."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=spawn) as pool:
        list(pool.map(partial(write_scene, folder, size_hw=SIZE_HW), range(count)))
    return folder


def by_the_demo_sam(scenes: str | Path, output: str | Path) -> list[str]:
    """Return the options that label the tops of drawn scenes."""
    options = ["--images", str(scenes), "--references", str(scenes), "--category", "top", "--method", "persam_f"]
    return [*options, "--sam", "demo", "--output", str(output)]


@contextmanager
def label_job(options: list[str], environment: Mapping[str, str] | None = None) -> Iterator[tuple[Any, str, Any]]:
    """Start `jobs/label.py`; yield its process, the mark that all of its processes carry, and the file it writes to."""
    mark = uuid.uuid4().hex
    command = [sys.executable, str(ROOT / "jobs" / "label.py"), *options]
    bar = {"FORCE_COLOR": "1"}  # not a line every 15 seconds
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        everything = {**os.environ, **bar, MARK: mark, **(environment or {})}
        process = subprocess.Popen(command, cwd=ROOT, env=everything, stderr=said)
        try:
            yield process, mark, said
        finally:
            process.kill()
            process.wait()


def label(
    options: list[str],
    on_progress: Callable[[int, str, Any], None] = lambda _done, _mark, _process: None,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run the job to its end.

    Args:
        options: Options of the command line.
        on_progress: Called ten times a second with the photos done so far, the mark, and the process.
        environment: Environment variables added for the job.
    """
    started_s = time.monotonic()
    times_s: dict[int, float] = {}
    done = 0
    with label_job(options, environment) as (process, mark, said):
        while process.poll() is None and time.monotonic() < started_s + TIMEOUT_S:
            done = _done(said)
            times_s.setdefault(done, time.monotonic() - started_s)
            on_progress(done, mark, process)
            time.sleep(0.1)
        status = process.poll()
        done = _done(said)
        said.seek(0)
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.read())[-2000:]
    if status is None:
        raise TimeoutError(f"the job hung: {done} photos were done after {TIMEOUT_S} s\n{text}")
    wall_s = time.monotonic() - started_s
    times_s.pop(0, None)
    moments_s = [*sorted(times_s.values()), wall_s]
    pause_s = max((later - earlier for earlier, later in itertools.pairwise(moments_s)), default=wall_s)
    return Ended(status, done, wall_s, pause_s, text)


def _done(said: Any) -> int:
    said.seek(0)
    return max(map(int, re.findall(r"labeling.*?(\d+)/\d+ images", said.read())), default=0)


def processes_of(mark: str) -> list[psutil.Process]:
    """Return the living processes that a job started, itself included."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def rows_of(output: Path) -> list[dict[str, Any]]:
    """Return the rows of all part files, by key."""
    rows: list[dict[str, Any]] = ds.dataset(output / "predictions", format="parquet").to_table().to_pylist()
    return sorted(rows, key=lambda row: str(row["image_id"]))


def check(claim: str, holds: bool) -> bool:
    """Print whether a claim holds, and return it."""
    console.print(f"{'holds' if holds else 'DOES NOT HOLD'}: {claim}")
    return holds
