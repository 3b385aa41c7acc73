"""The manifest: what was done with what, and no secret."""

import json
from pathlib import Path

from persam_ray.runs.counts import Counts
from persam_ray.runs.manifest import VERSIONED, write_manifest


def test_the_manifest_keeps_no_secrets(tmp_path: Path) -> None:
    config = {
        "images": "http://user:pass@host/photos?X-Amz-Signature=1",
        "reference": ("cup=https://me:pw@host/a.jpg?sig=1,s3://bucket/b.png",),
        "actors": 2,
    }
    write_manifest(str(tmp_path), config, {}, Counts(1, 1, 0, 0), {"label": 1.0})
    kept = json.loads((tmp_path / "manifest.json").read_text())["config"]
    assert kept == {
        "images": "http://host/photos",
        "reference": ["cup=https://host/a.jpg,s3://bucket/b.png"],
        "actors": 2,
    }


def test_the_manifest_says_what_was_done_with_what(tmp_path: Path) -> None:
    fingerprints = {"sam": {"uri": "vit_b", "fingerprint": "sha256:1"}, "references": {"cup": ["sha256:2"]}}
    seconds = {"list": 0.12345, "label": 4.0}
    write_manifest(
        str(tmp_path),
        {"images": "photos", "category": ("cup",)},
        fingerprints,
        Counts(10, 9, 1, 12, {"damaged": 1}),
        seconds,
    )
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    versions = manifest.pop("versions")
    assert manifest == {
        "config": {"images": "photos", "category": ["cup"]},
        **fingerprints,
        "counts": {"images": 10, "ok": 9, "failed": 1, "instances": 12, "reasons": {"damaged": 1}},
        "runs": [],
        "seconds": {"list": 0.123, "label": 4.0},
        "images_per_second": 2.5,
    }
    assert set(versions) == {*VERSIONED, "python"}


def test_without_a_time_there_is_no_rate(tmp_path: Path) -> None:
    write_manifest(str(tmp_path), {}, {}, Counts(0, 0, 0, 0), {})
    assert json.loads((tmp_path / "manifest.json").read_text())["images_per_second"] is None
