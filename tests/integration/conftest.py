"""Jobs on a real local Ray, with S3 over real HTTP.

`job` runs one as a user does, in a process with a Ray of its own: for what ends, is killed or is left behind.
`job_here` runs the same script in this process, on a Ray that all such jobs share: for what a job says and writes. It
saves the 6 to 10 s that the imports and a Ray of its own take on two cores.
"""

import contextlib
import io
import json
import os
import runpy
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
import numpy as np
import psutil
import pyarrow.dataset as ds
import pytest
import s3fs
from moto.server import ThreadedMotoServer
from PIL import Image
from safetensors.numpy import save_file

from persam_ray.cluster.session import session
from persam_ray.types import Checkpoint
from tests.conftest import disc, scene

ROOT = Path(__file__).parents[2]
MARK = "PERSAM_RAY_TEST_RUN"
SWIFT = {
    "RAY_num_workers_soft_limit": "16",
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
"""Processes that have loaded their libraries are kept for what comes next; Ray ends them after 1 s, and loading torch
takes 3 s. Ray Train looks every 2 s whether its workers live, and waits for 5 s at the end for what watches for
preemption."""


@dataclass(frozen=True)
class Finished:
    """A job that has ended."""

    status: int
    stderr: str


@dataclass(frozen=True)
class Ended(Finished):
    """A job's process that has ended, and the processes that it left behind."""

    left_behind: list[str]


Job = Callable[..., Ended]
JobHere = Callable[..., Finished]


def start_job(
    name: str, *options: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> tuple[subprocess.Popen[str], str]:
    """Start jobs/<name>.py, and return its process and its mark."""
    return start([sys.executable, str(ROOT / "jobs" / f"{name}.py"), *options], env, cwd)


def start(
    command: Sequence[str], env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> tuple[subprocess.Popen[str], str]:
    """Start a process; the mark in its environment is inherited by every process that it starts."""
    mark = uuid.uuid4().hex
    environment = {**os.environ, **SWIFT, MARK: mark, **(env or {})}
    return subprocess.Popen(command, cwd=cwd, env=environment, text=True, stderr=subprocess.PIPE), mark


def finish(process: subprocess.Popen[str], mark: str) -> Ended:
    _, stderr = process.communicate(timeout=400)
    deadline_s = time.monotonic() + 10  # Ray's processes need a moment to see that their head is gone
    while (left := processes_with(mark)) and time.monotonic() < deadline_s:
        time.sleep(0.2)
    return Ended(process.returncode, stderr, left)


def processes_with(mark: str) -> list[str]:
    """Return the command lines of the living processes that inherited a mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline())[:200])
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="session")
def job() -> Job:
    """Run a job to its end, in a process of its own."""
    return lambda name, *options, env=None: finish(*start_job(name, *options, env=env))


@pytest.fixture(scope="package")
def shared_ray(s3: "S3") -> Iterator[None]:
    """A Ray whose workers reach the S3 server."""
    with mock.patch.dict(os.environ, {**s3.env, **SWIFT}), session():
        yield


@pytest.fixture(scope="package")
def job_here(shared_ray: None) -> JobHere:
    """Run a job to its end in this process, on the shared Ray."""
    return run_here


def run_here(name: str, *options: str, env: Mapping[str, str] | None = None) -> Finished:
    """Run jobs/<name>.py as `python` does; a Ray that is running stays."""
    script = str(ROOT / "jobs" / f"{name}.py")
    s3fs.S3FileSystem.clear_instance_cache()  # it may know another server
    with (
        mock.patch.object(sys, "argv", [script, *options]),
        mock.patch.dict(os.environ, env or {}),
        contextlib.redirect_stderr(io.StringIO()) as stderr,
        pytest.raises(SystemExit) as ended,
    ):
        runpy.run_path(script, run_name="__main__")
    status = ended.value.code
    if isinstance(status, str):  # Python prints it at the end and exits with 1
        return Finished(1, f"{stderr.getvalue()}{status}\n")
    return Finished(status or 0, stderr.getvalue())


@pytest.fixture(scope="session")
def sam_file(small_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("sam") / "seeded.safetensors"
    save_file({name: np.ascontiguousarray(array) for name, array in small_checkpoint.tensors.items()}, path)
    return str(path)


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A photo and a mask, as IMAGE,MASK."""
    folder = tmp_path_factory.mktemp("reference")
    Image.fromarray(scene(90, 120)).save(folder / "photo.png")
    Image.fromarray(disc(90, 120)).save(folder / "mask.png")
    return f"{folder / 'photo.png'},{folder / 'mask.png'}"


def save_photos(folder: Path, count: int) -> Path:
    """Write small JPEG photos of varied sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        height, width = 40 + 7 * (index % 5), 60 + 11 * (index % 3)
        Image.fromarray(scene(height, width, seed=index)).save(folder / f"photo-{index:04}.jpg", quality=90)
    return folder


def rows_of(output: str | Path, **options: Any) -> dict[str, dict[str, Any]]:
    """Read predictions by image_id, making sure that there is one row for each."""
    rows = ds.dataset(f"{output}/predictions", format="parquet", **options).to_table().to_pylist()
    by_id = {row["image_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    return by_id


def manifest_of(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "manifest.json").read_text())
    return content


@dataclass(frozen=True)
class S3:
    """A running S3 server and what a process needs to reach it."""

    url: str
    env: Mapping[str, str]

    def client(self) -> Any:
        return boto3.client("s3", endpoint_url=self.url, aws_access_key_id="test", aws_secret_access_key="test")

    def require_credentials(self) -> None:
        """From now on the server checks who is asking, and knows nobody."""
        self._post("reset-auth", b"0")

    def trust_everyone(self) -> None:
        self._post("reset-auth", b"inf")

    def _post(self, path: str, body: bytes) -> None:
        request = urllib.request.Request(f"{self.url}/moto-api/{path}", body, {"Content-Type": "text/plain"})
        urllib.request.urlopen(request).close()


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    url = f"http://127.0.0.1:{port}"
    env = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    yield S3(url, env)
    server.stop()


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demo runs: its photos are drawn once."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="session")
def demo_benchmark(demo_folder: Path) -> Ended:
    """The benchmark's demo, smaller."""
    small = ("--train-images", "2", "--test-images", "8", "--steps", "2")
    finished = finish(*start_job("benchmark", "--demo", *small, cwd=demo_folder))
    assert finished.status == 0, finished.stderr
    return finished
