"""One of two nodes is killed in the middle of a run: the run completes, with the rows of an undisturbed run.

    python -m tests.chaos.two_nodes

Two raylets on this machine, 2 logical CPUs each, are a cluster; `jobs/label.py` joins it as a process of its own, on
the head, and labels 200 drawn scenes with the bundled SAM. It does so twice: once undisturbed, and once while
the raylet of the other node gets SIGKILL when a third of the photos are done. Claims: exit status 0, one row for
each photo in all files together, every mask, score and metric equal to the undisturbed run's. The exit status says
whether they hold.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from persam_ray.cluster.labeling import LEAST_ROWS_PER_FILE
from persam_ray.console import console
from tests.chaos.watched_job import by_the_demo_sam, check, draw, label, rows_of

PHOTOS = 200
KILL_AT = PHOTOS // 3
NODE = {"num_cpus": 2, "object_store_memory": 400 * 2**20}


@contextmanager
def two_nodes() -> Iterator[tuple[str, psutil.Process]]:
    """Start a cluster whose files are its own, so that no other Ray on this machine joins it; yield its address and the
    raylet of the node without the driver."""
    folder = tempfile.mkdtemp(prefix="ray-")
    os.environ["RAY_TMPDIR"] = folder  # read when Ray is imported, and by the job
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        other = cluster.add_node(**NODE)  # type: ignore[arg-type]  # Ray's own options by name
        yield cluster.address, psutil.Process(other.all_processes["raylet"][0].process.pid)
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


class Killer:
    """Ends a node with all that runs there, once."""

    def __init__(self, raylet: psutil.Process) -> None:
        self._raylet = raylet
        self.done: int | None = None
        self.running: list[str] = []

    def __call__(self, done: int, _mark: str, _process: object) -> None:
        """Kill when enough photos are done, remembering what was running."""
        if self.done is None and done >= KILL_AT:
            self.running = [child.cmdline()[0] for child in self._raylet.children() if child.is_running()]
            self._raylet.kill()
            self.done = done


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
        check(f"they are in {len(files)} files", len(files) >= len(names) // LEAST_ROWS_PER_FILE // 2),
        check(f"the manifest counts them: {counts}", counts["images"] == counts["ok"] == len(names)),
        check(f"{sum(map(len, masks))} masks and their scores equal the undisturbed run's", found == expected),
        check("so do the metrics", metrics[0] == metrics[1]),
    ]


def main() -> int:
    """Draw, label twice, compare."""
    with tempfile.TemporaryDirectory(prefix="two-nodes-") as folder, two_nodes() as (address, raylet):
        scenes, calm, killed = (Path(folder) / name for name in ("scenes", "calm", "killed"))
        draw(scenes, PHOTOS)
        joined = {"RAY_ADDRESS": address}
        undisturbed = label(by_the_demo_sam(scenes, calm), environment=joined)
        console.print(f"undisturbed: {undisturbed.summary}")
        killer = Killer(raylet)
        disturbed = label(by_the_demo_sam(scenes, killed), killer, joined)
        actors = sum("SegmentWithSam" in title for title in killer.running)
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
