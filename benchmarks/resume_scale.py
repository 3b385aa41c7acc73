"""What does it cost to resume a run? All keys of a bucket are compared with all rows of a run directory.

    python benchmarks/resume_scale.py [--keys 10000000] [--new 1000]

Writes Parquet shards of `--keys` photos (keys alone, a photo being one byte) and a run directory with a row for all
but the last `--new`, as labeling writes them (1,000 rows in a file, no masks). Then takes stock on local Ray, as a
resumed job does. Prints seconds, the driver's and the workers' peak memory, and a JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from persam_ray.cluster.ledger import take_stock
from persam_ray.cluster.plan import nodes, plan_workers
from persam_ray.cluster.session import session
from persam_ray.data.listing import open_dataset
from persam_ray.data.schema import IMAGES, PREDICTIONS
from persam_ray.data.storage import list_versions
from persam_ray.runs.parts import write_part

ROWS_PER_SHARD, ROWS_PER_PART = 10_000, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=10**7)
    parser.add_argument("--new", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images, output = Path(folder) / "images", Path(folder) / "run"
        write_shards(images, options.keys)
        write_rows(images, output, options.keys - options.new)
        before_mib = driver_mib()
        started_s = time.perf_counter()
        dataset = open_dataset(str(images))
        opened_s = time.perf_counter()
        with session(), PeakOfWorkers() as peak:
            plan = plan_workers(nodes())
            ready_s = time.perf_counter()
            ledger = take_stock(dataset, str(output), plan)
            ended_s = time.perf_counter()
        figures = {
            "keys": options.keys,
            "left": ledger.left,
            "listing_s": opened_s - started_s,
            "take_stock_s": ended_s - ready_s,
            "driver_mib_before": before_mib,
            "driver_mib": driver_mib(),
            "workers_mib": peak.mib,
        }
        assert (ledger.left, ledger.images, ledger.changed) == (options.new, options.keys, 0)
    for name, value in figures.items():
        print(f"{name:20} {value:14,.1f}")
    print(json.dumps(figures))


def key(number: int) -> str:
    return f"2026/{number % 997:03}/photo-{number:010}.jpg"


def write_shards(folder: Path, keys: int) -> None:
    folder.mkdir()
    for start in range(0, keys, ROWS_PER_SHARD):
        ids = [key(number) for number in range(start, min(keys, start + ROWS_PER_SHARD))]
        columns = {"image_id": ids, "image": [b"x"] * len(ids)}
        filled = [
            pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(len(ids), field.type)
            for field in IMAGES
        ]
        pq.write_table(pa.table(filled, schema=IMAGES), folder / f"{start:012}.parquet")


def write_rows(images: Path, output: Path, rows: int) -> None:
    versions = list_versions(str(images))
    for start in range(0, rows, ROWS_PER_PART):
        numbers = range(start, min(rows, start + ROWS_PER_PART))
        version = versions[f"{start // ROWS_PER_SHARD * ROWS_PER_SHARD:012}.parquet"]
        content = {
            "image_id": [key(number) for number in numbers],
            "height": [480] * len(numbers),
            "width": [640] * len(numbers),
            "status": ["ok"] * len(numbers),
            "error": [None] * len(numbers),
            "instances": [[]] * len(numbers),
            "version": [version] * len(numbers),
        }
        write_part(str(output), pa.table(content, schema=PREDICTIONS), None)


def driver_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class PeakOfWorkers:
    """Highest total memory of this process' Ray workers, without shared memory, in MiB."""

    def __init__(self) -> None:
        self.mib = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakOfWorkers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            total = 0
            for process in psutil.Process().children(recursive=True):
                try:
                    if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::"):
                        memory = process.memory_info()
                        total += memory.rss - memory.shared
                except psutil.Error:
                    continue
            self.mib = max(self.mib, total / 2**20)


if __name__ == "__main__":
    main()
