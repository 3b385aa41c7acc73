"""`pr.label` in a process that has its own Ray, its own threads, and more than one run."""

import io
import json
import threading
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
import ray

import persam_ray as pr
from tests.integration.conftest import manifest_of, save_photos

pytestmark = pytest.mark.ray


def test_it_works_on_the_callers_ray_and_from_a_thread_and_leaves_both_as_they_are(
    shared_ray: None, sam_file: str, reference: str, tmp_path: Path
) -> None:
    image, mask = reference.split(",")
    photos = save_photos(tmp_path / "photos", 3)
    (photos / "bad.jpg").write_bytes(b"no")
    options: dict[str, Any] = {"images": photos, "references": {"disc": [(image, Path(mask))]}, "sam": Path(sam_file)}
    said = io.StringIO()
    kept = ray.put("kept")
    with redirect_stderr(said):
        counts = pr.label(**options, output=tmp_path / "first", log="json", actors=1)
    assert (counts.images, counts.ok, counts.failed) == (4, 3, 1)
    events = [json.loads(line) for line in said.getvalue().splitlines()]
    assert events[-1]["event"] == "done"

    said = io.StringIO()
    thread = threading.Thread(target=pr.label, kwargs={**options, "output": tmp_path / "second", "actors": 1})
    with redirect_stderr(said):
        thread.start()
        thread.join(timeout=120)
    assert manifest_of(tmp_path / "second")["counts"]["images"] == 4
    assert events[0]["run_id"] not in said.getvalue()
    assert not said.getvalue().startswith("{")
    assert ray.get(kept) == "kept"
