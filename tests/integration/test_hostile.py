"""One label job whose input was written by somebody hostile: what it may write, show, say and listen on.

COCO on S3, with signed URLs for the references and ids that are paths, scripts, escapes and secrets of a terminal.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import psutil
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.conftest import scene
from tests.encoded_images import encoded
from tests.integration.conftest import ROOT, S3

pytestmark = [pytest.mark.ray, pytest.mark.s3]

SECRET_KEY = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
SESSION_TOKEN = "FwoGZXIvYXdzEXAMPLESESSIONTOKENwithNoMeaningAtAll"
SCRIPT = "<script>document.title='owned'</script><img src=http://127.0.0.1:9/leak onerror=alert(1)>.jpg"
SOUND = (
    "sound.jpg",
    SCRIPT,
    "'\"><svg onload=alert(1)>.jpg",
    "{{7*7}}${7*7}.jpg",
    "\u202egnp.exe.jpg",
    "a\x1b[31mred\x07.jpg",
)
"""Ids of photos that are there."""

MISSING = (
    "../../secret.jpg",
    "a/../../../secret.jpg",
    "http://169.254.169.254/latest/meta-data.jpg",
    "line\nresults: forged\r\nerror: forged.jpg",
    "nul\0byte.jpg",
    "\ud800lone\udfff.jpg",
    "__proto__",
    "constructor",
    "%2e%2e%2fx.jpg",
    "x" * 4096 + ".jpg",
)
"""Ids of photos that are not there, or must not be read."""


@dataclass(frozen=True)
class Ended:
    """What a job left behind."""

    said: str
    rows: dict[str, dict[str, Any]]
    files: dict[str, bytes]
    logs: Path
    listening: set[str]
    secrets: tuple[str, ...]


@pytest.fixture(scope="module")
def ended(s3: S3, sam_file: str, reference: str) -> Iterator[Ended]:
    client = s3.client()
    client.create_bucket(Bucket="hostile")
    for index, name in enumerate(SOUND):
        client.put_object(Bucket="hostile", Key=f"in/{name}", Body=encoded(scene(40, 50, seed=index), "JPEG"))
    client.put_object(Bucket="hostile", Key="secret.jpg", Body=encoded(scene(40, 50), "JPEG"))
    client.put_object(Bucket="hostile", Key="coco.json", Body=json.dumps(coco()).encode())
    signed, signatures = [], []
    for name, path in zip(("photo.png", "mask.png"), reference.split(","), strict=True):
        client.upload_file(path, "hostile", name)
        signed.append(client.generate_presigned_url("get_object", Params={"Bucket": "hostile", "Key": name}))
        signatures += parse_qs(urlsplit(signed[-1]).query)["Signature"]
    with tempfile.TemporaryDirectory(prefix="ray") as logs:  # short: Ray's sockets lie below it
        command = [
            sys.executable, str(ROOT / "jobs" / "label.py"), "--images", "s3://hostile/in", "--annotations",
            "s3://hostile/coco.json", "--output", "s3://hostile/run", "--sam", sam_file, "--reference",
            f"disc={','.join(signed)}",
        ]  # fmt: skip
        secrets = {"AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_SESSION_TOKEN": SESSION_TOKEN, "RAY_TMPDIR": logs}
        said, listening = watch(command, {**os.environ, **s3.env, **secrets})
        objects = client.list_objects_v2(Bucket="hostile")["Contents"]
        files = {item["Key"]: client.get_object(Bucket="hostile", Key=item["Key"])["Body"].read() for item in objects}
        filesystem = pafs.S3FileSystem(
            access_key="test", secret_key="test", endpoint_override=s3.url.removeprefix("http://"), scheme="http"
        )
        table = ds.dataset("hostile/run/predictions", filesystem=filesystem).to_table()
        rows = {row["image_id"]: row for row in table.to_pylist()}
        yield Ended(said, rows, files, Path(logs), listening, (SECRET_KEY, SESSION_TOKEN, *map(quote, signatures)))


def coco() -> dict[str, Any]:
    images = [
        {"id": index, "file_name": name, "height": 40, "width": 50} for index, name in enumerate((*SOUND, *MISSING))
    ]
    return {"categories": [{"id": 1, "name": "disc"}], "annotations": [], "images": images}


def watch(command: list[str], env: dict[str, str]) -> tuple[str, set[str]]:
    """Run a job; return what it said, and the addresses at which it and its Ray listened."""
    listening: set[str] = set()
    with tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as said:
        job = subprocess.Popen(command, cwd=ROOT, env=env, stdout=said, stderr=subprocess.STDOUT)
        while job.poll() is None:
            listening |= listening_at(job.pid)
            time.sleep(0.3)
        said.seek(0)
        text = said.read()
    assert job.returncode == 3, text  # complete, with failed photos
    return text, listening


def listening_at(pid: int) -> set[str]:
    found = set()
    try:
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            found |= {one.laddr.ip for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN}
    except psutil.Error:
        pass  # it ended while we looked
    return found


# --- rows and files --------------------------------------------------------------------------------------------------


def test_every_id_is_a_row_as_it_is(ended: Ended) -> None:
    readable = {name.encode(errors="backslashreplace").decode() for name in (*SOUND, *MISSING)}
    assert set(ended.rows) == readable
    assert {name for name, row in ended.rows.items() if row["status"] == "ok"} == set(SOUND)


def test_no_id_names_a_file_that_is_read_elsewhere_or_written(ended: Ended) -> None:
    for name in ("../../secret.jpg", "a/../../../secret.jpg"):
        assert ended.rows[name]["error"] == "the file_name leads out of the folder of the images"
    written = {name for name in ended.files if name.startswith("run/")}
    parts = {name for name in written if re.fullmatch(r"run/(predictions|matches)/part-[0-9a-f]{16}\.parquet", name)}
    assert len(parts) == 3  # rows, those of photos that could not be read, and matches
    others = ("run.json", "manifest.json", "metrics.json", "report/index.html")
    assert written - parts == {f"run/{name}" for name in others}


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_no_secret_is_said_or_written(ended: Ended) -> None:
    run = b"".join(content for name, content in ended.files.items() if name.startswith("run/"))
    texts = "".join(str(row) for row in ended.rows.values())
    for secret in ended.secrets:
        assert secret not in ended.said
        assert secret not in texts  # of Parquet, which is compressed
        assert secret.encode() not in run
    (reference,) = json.loads(ended.files["run/manifest.json"])["config"]["reference"]
    assert re.fullmatch(r"disc=http://[\w.:]+/hostile/photo\.png,http://[\w.:]+/hostile/mask\.png", reference)


def test_no_secret_is_in_the_logs_of_ray(ended: Ended) -> None:
    logs = [path for path in ended.logs.rglob("*") if path.is_file()]
    assert any(path.name.startswith("worker-") for path in logs)
    for path in logs:
        content = path.read_bytes()
        assert [secret for secret in ended.secrets if secret.encode() in content] == [], path.name


# --- who can see it --------------------------------------------------------------------------------------------------


def test_no_port_is_open_to_the_network(ended: Ended) -> None:
    assert ended.listening
    for address in map(ip_address, ended.listening):
        assert (getattr(address, "ipv4_mapped", None) or address).is_loopback, address


def test_nothing_steers_the_terminal(ended: Ended) -> None:
    assert "16 images in" in ended.said
    lines = ended.said.splitlines()
    assert [line for line in lines if not line.isprintable()] == []
    assert [line for line in lines if line.startswith(("results: ", "error: "))] == ["results: s3://hostile/run"]


def test_the_page_shows_the_ids_runs_no_script_and_asks_for_nothing(ended: Ended, tmp_path: Path) -> None:
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("chromium and chromedriver are not installed")
    (tmp_path / "index.html").write_bytes(ended.files["run/report/index.html"])
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as browser:
        browser.get(f"file://{tmp_path}/index.html")
        shown = browser.execute_script("return document.querySelector('main').textContent")
        assert browser.title == "Labels: disc"
        assert browser.execute_script("return document.scripts.length") == 1
        assert browser.find_elements(By.CSS_SELECTOR, "main img, main svg[onload], main script") == []
        assert [entry["message"] for entry in browser.get_log("browser")] == []
        events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} == {f"file://{tmp_path}/index.html"}
    for name in (*SOUND, "__proto__", "../../secret.jpg", "x" * 4096):
        assert name in shown
