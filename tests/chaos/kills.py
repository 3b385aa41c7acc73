"""Runs that are killed at a random moment, and the same command again: a row for each photo, and each as it should be.

    python -m tests.chaos.kills [--runs 20] [--photos 300]

Labels drawn scenes once undisturbed, then in `--runs` runs, each into a folder of its own. In each a process gets
SIGKILL at a random moment: by turns the driver, an actor that holds SAM, and the raylet. Then the same command is given
until it ends with status 0. Claims: rows, masks, scores and metrics equal the undisturbed run's; no job hangs; no more
photos are labeled twice than LABELED_TWICE. The exit status says whether they hold.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from persam_ray.cluster.labeling import LEAST_ROWS_PER_FILE, ROWS_PER_CALL
from persam_ray.console import console
from tests.chaos.watched_job import by_the_demo_sam, check, draw, label, processes_of, rows_of

TARGETS = ("driver", "actor", "raylet")
ATTEMPTS = 4
ACTORS = 2

LABELED_TWICE = ACTORS * ROWS_PER_CALL + 2 * (LEAST_ROWS_PER_FILE + ROWS_PER_CALL)
"""Most photos that two actors hold, and that two writers gather and write, at a time."""


@dataclass
class Killer:
    """Kills one process of a job when a moment has come.

    Attributes:
        target: One of TARGETS.
        after_s: Seconds between the start and the kill.
        hit: Photos done at the time of the kill; None before it.
    """

    target: str
    after_s: float
    started_s: float = field(default_factory=time.monotonic)
    hit: int | None = None

    def __call__(self, done: int, mark: str, process: Any) -> None:
        """Kill once."""
        if self.hit is not None or time.monotonic() - self.started_s < self.after_s:
            return
        victims = [process] if self.target == "driver" else [one for one in processes_of(mark) if self._is_meant(one)]
        if victims:
            random.choice(victims).kill()
            self.hit = done

    def _is_meant(self, process: psutil.Process) -> bool:
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            return False
        return "SegmentWithSam" in title if self.target == "actor" else "raylet/raylet" in title


def killed_run(scenes: Path, output: Path, target: str, after_s: float) -> tuple[bool, int]:
    """Run, kill, and run again until done; return whether it ended well, and how many photos were labeled twice."""
    killer = Killer(target, after_s)
    options = by_the_demo_sam(scenes, output)
    ended = label(options, killer)
    kept = len(rows_of(output)) if (output / "predictions").exists() else 0
    told = f"{target} killed after {after_s:.1f} s, {killer.hit} photos done: {ended.summary}, {kept} rows kept"
    twice = max(0, ended.done - kept)  # also if the job survived the loss of an actor: the bar counts repeated photos
    attempts = 1
    while ended.status and attempts < ATTEMPTS:
        ended = label(options)
        attempts += 1
    console.print(f"{told}; {attempts} commands, {twice} photos labeled twice")
    if ended.status:
        console.print(ended.said)
    return ended.status == 0, twice


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, label undisturbed, then kill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    random.seed(options.seed)
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        scenes = draw(Path(folder) / "scenes", options.photos)
        calm = Path(folder) / "calm"
        undisturbed = label(by_the_demo_sam(scenes, calm))
        console.print(f"undisturbed: {undisturbed.summary}")
        expected, metrics = rows_of(calm), (calm / "metrics.json").read_text()
        holds, most = [check(f"{options.photos} rows undisturbed", len(expected) == options.photos)], 0
        for number in range(options.runs):
            output = Path(folder) / f"run-{number}"
            target = TARGETS[number % len(TARGETS)]
            is_done, twice = killed_run(scenes, output, target, random.uniform(2, 0.95 * undisturbed.wall_s))
            same = is_done and rows_of(output) == expected and (output / "metrics.json").read_text() == metrics
            holds.append(check(f"run {number}: a row for each photo, equal to the undisturbed run's", same))
            most = max(most, twice)
        holds.append(check(f"{most} photos labeled twice at most, of {LABELED_TWICE} allowed", most <= LABELED_TWICE))
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
