"""Weights by name: official ones fetched once and verified, where a detector starts and lies."""

import hashlib
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest

from persam_ray.data import weights
from persam_ray.data.storage import StorageError
from persam_ray.data.weights import (
    DETECTOR_STARTS,
    OFFICIAL,
    OfficialWeights,
    check_start,
    locate,
    locate_detector,
    locate_start,
)
from persam_ray.mask_rcnn.model import BACKBONES

PUBLISHED = b"the published weights"


@pytest.fixture
def requests() -> Iterator[list[str]]:
    """A server of one file on this machine; the paths that were asked for."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            is_there = self.path == "/weights/sam.pth"
            self.send_response(200 if is_there else 404)
            self.send_header("Content-Length", str(len(PUBLISHED) if is_there else 0))
            self.end_headers()
            self.wfile.write(PUBLISHED if is_there else b"")

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    seen.append(f"http://127.0.0.1:{server.server_address[1]}")
    yield seen
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pooch.get_logger().setLevel(logging.ERROR)
    return tmp_path / "cache" / "persam_ray"


def publish(monkeypatch: pytest.MonkeyPatch, requests: list[str], content: bytes = PUBLISHED, path: str = "") -> None:
    """Make the server's file one of the official names, with the digest of a content."""
    url = f"{requests.pop()}{path or '/weights/sam.pth'}"
    digest = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(weights, "OFFICIAL", OFFICIAL | {"vit_t": OfficialWeights(url, digest)})


def test_official_weights_are_fetched_once_into_the_users_cache(
    cache: Path, requests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, requests)
    path = Path(locate("vit_t"))
    assert path == cache / "sam.pth"
    assert path.read_bytes() == PUBLISHED
    assert locate("vit_t") == str(path)
    assert requests == ["/weights/sam.pth"]


def test_weights_of_another_digest_are_refused_and_not_kept(
    cache: Path, requests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, requests, b"what was published first")
    with pytest.raises(StorageError, match=r"--sam vit_t: http://.* cannot be fetched .*hash"):
        locate("vit_t")
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_a_damaged_file_in_the_cache_is_fetched_again(
    cache: Path, requests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, requests)
    cache.mkdir(parents=True)
    (cache / "sam.pth").write_bytes(PUBLISHED[:5])
    assert Path(locate("vit_t")).read_bytes() == PUBLISHED
    assert requests == ["/weights/sam.pth"]


def test_a_server_without_the_file_is_named(cache: Path, requests: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, requests, path="/gone.pth")
    with pytest.raises(StorageError, match=r"--sam vit_t: http://127\.0\.0\.1:\d+/gone\.pth cannot be fetched \(404"):
        locate("vit_t")


def test_the_official_files_have_names_urls_and_digests() -> None:
    assert list(OFFICIAL) == ["vit_b", "vit_l", "vit_h", "mobile_sam"]
    for official in OFFICIAL.values():
        assert official.url.startswith("https://")
        assert len(bytes.fromhex(official.sha256)) == 32


# --- Mask R-CNN -------------------------------------------------------------------------------------------------------


def publish_start(monkeypatch: pytest.MonkeyPatch, requests: list[str], digits: str) -> None:
    published = OfficialWeights(f"{requests.pop()}/weights/sam.pth", digits)
    monkeypatch.setattr(weights, "DETECTOR_STARTS", {("resnet50_fpn", "coco"): published})


def test_start_weights_are_verified_by_the_digits_that_torchvision_states(
    cache: Path, requests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_start(monkeypatch, requests, hashlib.sha256(PUBLISHED).hexdigest()[:8])
    for name in ("auto", "coco", "coco"):
        assert locate_start("resnet50_fpn", name) == str(cache / "sam.pth")
    assert requests == ["/weights/sam.pth"]


def test_start_weights_of_other_content_are_refused_and_not_kept(
    cache: Path, requests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_start(monkeypatch, requests, "00000000")
    with pytest.raises(StorageError, match=r"--start coco: http://.*sam\.pth has the wrong content \(its SHA-256 is"):
        locate_start("resnet50_fpn", "coco")
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_start_weights_may_be_none_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "start.pth").write_bytes(b"")
    assert locate_start("mobilenet_v2", "none") is None
    assert locate_start("mobilenet_v2", str(tmp_path / "start.pth")) == str(tmp_path / "start.pth")
    check_start(str(tmp_path / "start.pth"))
    for name in ("auto", "none", "coco", "imagenet"):
        check_start(name)
    with pytest.raises(StorageError, match=r"--start gone\.pth: no such file, nor one of the names imagenet, none"):
        locate_start("mobilenet_v2", "gone.pth")
    with pytest.raises(StorageError, match=r"--start gone\.pth: no such file, nor one of .*auto, coco, imagenet, none"):
        check_start("gone.pth")


def test_every_backbone_has_published_start_weights() -> None:
    assert {backbone for backbone, _ in DETECTOR_STARTS} == set(BACKBONES)
    for start in DETECTOR_STARTS.values():
        assert start.url.endswith(f"-{start.sha256}.pth")  # as torchvision names its files


def test_a_detector_is_found_by_its_file_or_its_run(tmp_path: Path) -> None:
    path = tmp_path / "run" / "mask_rcnn.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"")
    assert locate_detector(str(path)) == locate_detector(str(path.parent)) == str(path)
    with pytest.raises(StorageError, match=r"neither a \.safetensors file nor a folder with mask_rcnn\.safetensors"):
        locate_detector(str(tmp_path))
