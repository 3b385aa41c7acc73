"""A label job on 100 and on 1,000 photos: memory, the first prediction, one actor against all, the run of the next day.

    python benchmarks/label_scale.py --images photos/ --reference cup.jpg,cup_mask.png [--sam demo]

Copies the photos under new names until there are enough. Runs `jobs/label.py` as a process of its own on 100 photos, on
1,000, on 1,000 with one actor, and once more into the folder of the 1,000 with 10 new photos. Prints for each
run the seconds from the command to its end and to the first labeled photo, images per second of the labeling, and the
highest resident memory of the driver and of an actor; then ratios and a JSON line. An actor's memory is also shown
without shared memory: libraries, and Ray's object store, of which an actor touches more the longer it runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

ROOT = Path(__file__).parents[1]
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
FEW, MANY, NEW = 100, 1000, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True)
    parser.add_argument("--reference", required=True, metavar="IMAGE,MASK")
    parser.add_argument("--sam", default="demo")
    options = parser.parse_args()
    found = sorted(path for path in Path(options.images).rglob("*") if path.suffix.lower() in SUFFIXES)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        few, many = copied(found, work / "few", 0, FEW), copied(found, work / "many", 0, MANY)
        command = ["--reference", f"thing={options.reference}", "--sam", options.sam]
        runs = {
            f"{FEW} photos": watched(few, work / "a", command),
            f"{MANY} photos": watched(many, work / "b", command),
            f"{MANY} photos, one actor": watched(many, work / "c", [*command, "--actors", "1"]),
        }
        copied(found, work / "many", MANY, NEW)
        runs[f"{NEW} new photos"] = watched(many, work / "b", command)
    report(runs)


@dataclass(frozen=True)
class Watched:
    """A run: seconds, photos, and the highest resident memory of its driver and of any of its actors, in MiB.

    For an actor also the highest memory that it shares with no other process.
    """

    whole_s: float
    first_s: float
    labeled: int
    label_s: float
    driver_mib: float
    actor_mib: float
    actor_own_mib: float


def copied(found: Sequence[Path], folder: Path, start: int, count: int) -> Path:
    """Copy photos in turn under new names."""
    folder.mkdir(exist_ok=True)
    for number, path in zip(range(start, start + count), itertools.cycle(found), strict=False):
        (folder / f"{number:06}{path.suffix}").write_bytes(path.read_bytes())
    return folder


def watched(images: Path, output: Path, options: Sequence[str]) -> Watched:
    """Run the job; read its bar four times a second and its processes every two seconds, which takes time from it."""
    command = [
        sys.executable,
        str(ROOT / "jobs" / "label.py"),
        "--images",
        str(images),
        "--output",
        str(output),
        *options,
    ]
    started_s = looked_s = time.perf_counter()
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        job = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "FORCE_COLOR": "1"}, stderr=said)
        driver, first_s, driver_mib, actors_mib = psutil.Process(job.pid), 0.0, 0.0, [(0.0, 0.0)]
        while job.poll() is None:
            if not first_s and has_begun(said):
                first_s = time.perf_counter() - started_s
            if time.perf_counter() > looked_s + 2:
                looked_s = time.perf_counter()
                driver_mib = max(driver_mib, memory_mib(driver)[0])
                actors_mib += map(memory_mib, actors_of(driver))
            time.sleep(0.25)
    whole_s = time.perf_counter() - started_s
    manifest = json.loads((output / "manifest.json").read_text())
    labeled, label_s = manifest["runs"][-1]["labeled"], manifest["seconds"]["label"]
    resident, own = (max(column) for column in zip(*actors_mib, strict=True))
    return Watched(whole_s, first_s, labeled, label_s, driver_mib, resident, own)


def has_begun(said: IO[str]) -> bool:
    """Tell whether the job's bar shows a labeled photo."""
    said.seek(0)
    return bool(re.search(r"labeling.*?[1-9]\d*/\d+ images", said.read()))


def actors_of(driver: psutil.Process) -> list[psutil.Process]:
    try:
        children = driver.children(recursive=True)
        return [child for child in children if "SegmentWith" in "".join(child.cmdline()[:1])]
    except psutil.Error:
        return []


def memory_mib(process: psutil.Process) -> tuple[float, float]:
    """Return a process's resident memory, and the part of it that is not shared."""
    try:
        memory = process.memory_info()
    except psutil.Error:
        return 0.0, 0.0
    return memory.rss / 2**20, (memory.rss - memory.shared) / 2**20


def report(runs: dict[str, Watched]) -> None:
    """Print seconds, memory, ratios and the JSON line."""
    for name, run in runs.items():
        print(
            f"{name:24} {run.whole_s:7.1f} s, the first after {run.first_s:5.1f} s, {run.labeled} labeled, "
            f"{run.labeled / run.label_s:5.1f} images/s, "
            f"driver {run.driver_mib:5.0f} MiB, actor {run.actor_mib:5.0f} MiB, {run.actor_own_mib:5.0f} of it its own"
        )
    few, many, one, _ = runs.values()
    ratios = {
        "driver's memory, 1,000 / 100": many.driver_mib / few.driver_mib,
        "an actor's memory, 1,000 / 100": many.actor_mib / few.actor_mib,
        "an actor's own memory, 1,000 / 100": many.actor_own_mib / few.actor_own_mib,
        "images/s, all actors / one": one.label_s / many.label_s,
    }
    for name, ratio in ratios.items():
        print(f"{name:36} {ratio:6.2f}")
    print(json.dumps({name: vars(run) for name, run in runs.items()} | ratios))


if __name__ == "__main__":
    main()
