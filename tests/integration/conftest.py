"""Jobs run as a user runs them: a process of their own, a real local Ray, and S3 over real HTTP."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import psutil
import pyarrow.dataset as ds
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image
from safetensors.numpy import save_file

from persam_ray.types import Checkpoint
from tests.conftest import disc, scene

ROOT = Path(__file__).parents[2]
MARK = "PERSAM_RAY_TEST_RUN"


@dataclass(frozen=True)
class Finished:
    """A job that has ended, and the processes that it left behind."""

    status: int
    stderr: str
    left_behind: list[str]


Job = Callable[..., Finished]


def start_job(
    name: str, *options: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> tuple[subprocess.Popen[str], str]:
    """Start jobs/<name>.py; the mark in its environment is inherited by every process that it starts."""
    mark = uuid.uuid4().hex
    command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *options]
    environment = {**os.environ, MARK: mark, **(env or {})}
    return subprocess.Popen(command, cwd=cwd, env=environment, text=True, stderr=subprocess.PIPE), mark


def finish(process: subprocess.Popen[str], mark: str) -> Finished:
    _, stderr = process.communicate(timeout=400)
    deadline_s = time.monotonic() + 10  # Ray's processes need a moment to see that their head is gone
    while (left := processes_with(mark)) and time.monotonic() < deadline_s:
        time.sleep(0.2)
    return Finished(process.returncode, stderr, left)


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
    """Run a job to its end."""
    return lambda name, *options, env=None: finish(*start_job(name, *options, env=env))


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
