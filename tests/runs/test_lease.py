"""One job at a time on an output."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from persam_ray.runs import lease
from persam_ray.runs.lease import Lease, LeaseError


def held_by(folder: Path, **content: object) -> Path:
    path = folder / lease.FILE
    path.write_text(json.dumps({"job": "other", "host": "elsewhere", "pid": 1, "beat": 0} | content))
    return path


def test_it_is_there_while_the_job_runs_and_gone_afterwards(tmp_path: Path) -> None:
    with Lease(str(tmp_path)) as held:
        assert json.loads((tmp_path / lease.FILE).read_text())["pid"] == os.getpid()
        held.check()
    assert not list(tmp_path.iterdir())


def test_a_living_job_keeps_others_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWED_EVERY_S", 0.1)
    with Lease(str(tmp_path)) as held:
        renewed = json.loads((tmp_path / lease.FILE).read_text())
        monkeypatch.setattr(socket, "gethostname", lambda: "another machine")
        with (
            pytest.raises(LeaseError, match=rf"another job writes there \(process {os.getpid()} on "),
            Lease(str(tmp_path)),
        ):
            pass
        held.check()
    assert renewed["beat"] == 0
    assert not list(tmp_path.iterdir())


def test_the_lease_of_a_process_that_has_ended_here_is_taken_at_once(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    held_by(tmp_path, host=socket.gethostname(), pid=int(ended.stdout), **lease._processes())
    started_s = time.monotonic()
    with Lease(str(tmp_path)) as held:
        held.check()
    assert time.monotonic() - started_s < 2


def test_the_lease_of_a_silent_machine_is_taken_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "DEAD_AFTER_S", 1.5)
    path = held_by(tmp_path)
    with Lease(str(tmp_path)):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_who_has_been_taken_for_dead_learns_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWED_EVERY_S", 0.05)
    with Lease(str(tmp_path)) as held:
        path = held_by(tmp_path)
        held._renewal.join(timeout=5)
        with pytest.raises(LeaseError, match=r"another job has taken over \(process 1 on elsewhere"):
            held.check_told()
    assert json.loads(path.read_text())["job"] == "other"  # which is not ours to remove


def test_of_two_that_come_at_the_same_moment_one_learns_it_at_once(tmp_path: Path) -> None:
    with Lease(str(tmp_path)) as first:
        (tmp_path / lease.FILE).unlink()  # the other had looked before this one wrote
        with Lease(str(tmp_path)) as second:
            second.check()
            with pytest.raises(LeaseError, match="another job has taken over"):
                first.check()


def test_a_lease_that_has_gone_was_lost(tmp_path: Path) -> None:
    with Lease(str(tmp_path)) as held:
        (tmp_path / lease.FILE).unlink()  # another took it over, and has ended
        with pytest.raises(LeaseError, match="it has ended"):
            held.check()


def test_a_process_of_another_container_is_not_told_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "DEAD_AFTER_S", 2.5)
    here = lease._processes() | {"namespace": "pid:[1]"}
    held_by(tmp_path, host=socket.gethostname(), pid=os.getpid(), **here)
    started_s = time.monotonic()
    with Lease(str(tmp_path)):
        assert time.monotonic() - started_s > 2
