"""A node of two is killed in the middle of a run: the run completes, with the rows of one in which nothing happened.

    python -m tests.chaos.two_nodes

Two raylets on this machine, 2 logical CPUs each, are a cluster; `jobs/label.py` joins it as a process of its own, on
the head, and labels 200 drawn scenes by the SAM that comes along. It does so twice: once undisturbed, and once while
the raylet of the other node gets SIGKILL when a third of the photos are done. A file takes 16 rows instead of 1024, so
that several are written before, during and after. Claims: exit status 0, exactly one row for each photo in all files
together, every mask, score and metric equal to the undisturbed run's. The exit status says whether they hold.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pyarrow.dataset as ds

from persam_ray.demo.dataset import write_scene
from persam_ray.progress import console

ROOT = Path(__file__).parents[2]
PHOTOS = 200
SIZE_HW = (280, 192)
KILL_AT = PHOTOS // 3
ROWS_PER_FILE = 16
NODE = {"num_cpus": 2, "object_store_memory": 400 * 2**20}
TIMEOUT_S = 900

SMALL_FILES = f"""
import runpy, sys
from persam_ray import labeling
labeling.ROWS_PER_FILE = {ROWS_PER_FILE}
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs the job that follows, with smaller files."""


@dataclass(frozen=True)
class Ended:
    """A job that has ended: its status, how long it took and went without a photo done, the last that it said."""

    status: int
    wall_s: float
    pause_s: float
    said: str

    @property
    def summary(self) -> str:
        return f"exit status {self.status} after {self.wall_s:.1f} s, at most {self.pause_s:.1f} s without a photo done"


@contextmanager
def two_nodes() -> Iterator[tuple[str, psutil.Process]]:
    """Start a cluster whose files are its own, so that no other Ray on this machine joins it; yield its address and the
    raylet of the node without the driver."""
    folder = tempfile.mkdtemp(prefix="ray-")
    os.environ["RAY_TMPDIR"] = folder  # read when Ray is imported, and by the job
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        other = cluster.add_node(**NODE)
        yield cluster.address, psutil.Process(other.all_processes["raylet"][0].process.pid)
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def draw(folder: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=spawn) as pool:
        list(pool.map(partial(write_scene, folder, size_hw=SIZE_HW), range(PHOTOS)))


def label(scenes: Path, output: Path, address: str, on_progress: Callable[[int], None]) -> Ended:
    """Run the job, telling how many photos are done as soon as it says so."""
    command = [sys.executable, "-c", SMALL_FILES, str(ROOT / "jobs" / "label.py"), "--images", str(scenes)]
    command += ["--references", str(scenes), "--category", "top", "--method", "persam_f", "--sam", "demo"]
    command += ["--output", str(output)]
    environment = {**os.environ, "RAY_ADDRESS": address, "FORCE_COLOR": "1"}  # a bar, not a line every 15 seconds
    started_s = time.monotonic()
    times_s: dict[int, float] = {}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=said)
        while process.poll() is None and time.monotonic() < started_s + TIMEOUT_S:
            said.seek(0)
            done = max(map(int, re.findall(rf"(\d+)/{PHOTOS} images", said.read())), default=0)
            times_s.setdefault(done, time.monotonic() - started_s)
            on_progress(done)
            time.sleep(0.1)
        process.kill()
        times_s.pop(0, None)
        said.seek(0)
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.read())[-2000:]
    wall_s = time.monotonic() - started_s
    moments_s = [*sorted(times_s.values()), wall_s]
    pause_s = max((later - earlier for earlier, later in itertools.pairwise(moments_s)), default=wall_s)
    return Ended(process.wait(), wall_s, pause_s, text)


class Killer:
    """Ends a node with all that runs there, once."""

    def __init__(self, raylet: psutil.Process) -> None:
        self._raylet = raylet
        self.done: int | None = None
        self.running: list[str] = []

    def __call__(self, done: int) -> None:
        """Kill when enough photos are done, remembering what was running."""
        if self.done is None and done >= KILL_AT:
            self.running = [child.cmdline()[0] for child in self._raylet.children() if child.is_running()]
            self._raylet.kill()
            self.done = done


def rows_of(output: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = ds.dataset(output / "predictions", format="parquet").to_table().to_pylist()
    return sorted(rows, key=lambda row: str(row["image_id"]))


def check(claim: str, holds: bool) -> bool:
    console.print(f"{'holds' if holds else 'DOES NOT HOLD'}: {claim}")
    return holds


def compare(scenes: Path, calm: Path, killed: Path) -> list[bool]:
    """Say which claims about the rows hold."""
    expected, found = rows_of(calm), rows_of(killed)
    names = sorted(path.name for path in (scenes / "images").iterdir())
    counts = json.loads((killed / "manifest.json").read_text())["counts"]
    masks = [[instance["rle"] for instance in row["instances"]] for row in found]
    files = list((killed / "predictions").iterdir())
    metrics = [(output / "metrics.json").read_text() for output in (calm, killed)]
    return [
        check(f"exactly one row for each of {len(names)} photos", [row["image_id"] for row in found] == names),
        check(f"they are in {len(files)} files", len(files) >= len(names) // ROWS_PER_FILE),
        check(f"the manifest counts them: {counts}", counts["images"] == counts["ok"] == len(names)),
        check(f"{sum(map(len, masks))} masks and their scores equal the undisturbed run's", found == expected),
        check("so do the metrics", metrics[0] == metrics[1]),
    ]


def main() -> int:
    """Draw, label twice, compare."""
    with tempfile.TemporaryDirectory(prefix="two-nodes-") as folder, two_nodes() as (address, raylet):
        scenes, calm, killed = (Path(folder) / name for name in ("scenes", "calm", "killed"))
        draw(scenes)
        undisturbed = label(scenes, calm, address, lambda _done: None)
        console.print(f"undisturbed: {undisturbed.summary}")
        killer = Killer(raylet)
        disturbed = label(scenes, killed, address, killer)
        actors = sum("SegmentWithPersam" in title for title in killer.running)
        console.print(
            f"killed: {killer.done} of {PHOTOS} photos were done, {len(killer.running)} workers ran on the node, "
            f"{actors} of them with SAM; {disturbed.summary}"
        )
        holds = [
            check("both runs end with status 0", undisturbed.status == disturbed.status == 0),
            check("the node was killed in the middle, with an actor on it", killer.done is not None and actors > 0),
        ]
        if not holds[0]:
            console.print(undisturbed.said if undisturbed.status else disturbed.said)
            return 1
        return 0 if all([*holds, *compare(scenes, calm, killed)]) else 1


if __name__ == "__main__":
    sys.exit(main())
