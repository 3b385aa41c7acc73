"""S3 on a bad day: 10% of all requests fail at random; then, in another run, all of them for 30 seconds.

    python -m tests.chaos.storage_faults [--photos 120]

A label job reads drawn scenes from an S3 server and writes its rows there, over HTTP through a proxy. Claims: with 10%
of requests failing (503, reset, stall) the job completes, with the rows of an undisturbed run; after 30 seconds in
which every request fails, the same command, repeated if it ended, completes with equal rows.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import boto3
import pyarrow.dataset as ds
import pyarrow.fs as pafs
from moto.server import ThreadedMotoServer

from persam_ray.console import console
from tests.chaos.faulty_proxy import FaultyProxy, faulty_proxy
from tests.chaos.watched_job import Ended, by_the_demo_sam, check, draw, label

OUTAGE_S = 30.0
ATTEMPTS = 4


def upload(scenes: Path, port: int) -> None:
    """Put all scenes into a bucket."""
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
    client.create_bucket(Bucket="bucket")
    for path in sorted(scenes.rglob("*.*")):
        client.upload_file(str(path), "bucket", f"scenes/{path.relative_to(scenes)}")


def rows_of(name: str, port: int) -> list[dict[str, Any]]:
    """Return a run's rows, by key."""
    s3 = pafs.S3FileSystem(endpoint_override=f"127.0.0.1:{port}", scheme="http", access_key="test", secret_key="test")
    rows = ds.dataset(f"bucket/{name}/predictions", format="parquet", filesystem=s3).to_table().to_pylist()
    return sorted(rows, key=lambda row: str(row["image_id"]))


class Outage:
    """Fails everything for a while, from the moment that a third of the photos are done."""

    def __init__(self, proxy: FaultyProxy, photos: int) -> None:
        self._proxy, self._from = proxy, photos // 3
        self._until_s: float | None = None

    def __call__(self, done: int, _mark: str, _process: object) -> None:
        """Look at the clock."""
        if self._until_s is None and done >= self._from:
            self._until_s = time.monotonic() + OUTAGE_S
            self._proxy.failing = 1.0
        elif self._until_s is not None and time.monotonic() > self._until_s:
            self._proxy.failing = 0.0

    def wait(self) -> None:
        """Wait until it is over."""
        while self._until_s is not None and time.monotonic() < self._until_s:
            time.sleep(0.2)
        self._proxy.failing = 0.0


def labeled(name: str, proxy: FaultyProxy, outage: Outage | None = None) -> tuple[Ended, int]:
    """Run the job until it is complete; return its last run, and the number of commands that it took."""
    options = by_the_demo_sam("s3://bucket/scenes", f"s3://bucket/{name}")
    environment = {"AWS_ENDPOINT_URL": proxy.url}
    attempts = 1
    watch = {"on_progress": outage} if outage else {}
    ended = label(options, environment=environment, **watch)
    while ended.status and attempts < ATTEMPTS:
        console.print(f"{name}: {ended.summary}, {ended.done} done: {ended.said.strip().splitlines()[-1]}")
        if outage:
            outage.wait()
        ended = label(options, environment=environment)
        attempts += 1
    return ended, attempts


def main(arguments: Sequence[str] | None = None) -> int:
    """Upload, label undisturbed, then disturb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=120)
    options = parser.parse_args(arguments)
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    holds = []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, faulty_proxy(port) as proxy:
        upload(draw(Path(folder) / "scenes", options.photos), port)
        ended, _ = labeled("calm", proxy)
        console.print(f"undisturbed: {ended.summary}; {dict(proxy.seen)}")
        expected = rows_of("calm", port)
        holds.append(check(f"{options.photos} rows undisturbed", len(expected) == options.photos))

        proxy.seen.clear()
        proxy.failing = 0.1
        ended, commands = labeled("faults", proxy)
        proxy.failing = 0.0
        console.print(f"10% failing: {ended.summary}, {commands} commands; {dict(proxy.seen)}")
        holds.append(check("complete at once", ended.status == 0 and commands == 1))
        holds.append(check("rows equal the undisturbed run's", rows_of("faults", port) == expected))

        proxy.seen.clear()
        ended, commands = labeled("outage", proxy, Outage(proxy, options.photos))
        console.print(f"{OUTAGE_S:.0f} s away: {ended.summary}, {commands} commands; {dict(proxy.seen)}")
        holds.append(check("complete", ended.status == 0))
        holds.append(check("rows equal the undisturbed run's", rows_of("outage", port) == expected))
    server.stop()
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
