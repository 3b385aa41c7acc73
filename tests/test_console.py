import io
import json
import threading
import time

import pytest

from persam_ray import console as console_module
from persam_ray.console import PublicConsole, clock, progress_line, show_progress
from persam_ray.runs import summary
from persam_ray.runs.counts import Counts


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (0.4, "0:00"),
        (59.6, "1:00"),
        (61, "1:01"),
        (3599, "59:59"),
        (3600, "1:00:00"),
        (90_061, "25:01:01"),
    ],
)
def test_a_duration_is_written_in_minutes_or_hours(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_line_tells_rate_and_time_left() -> None:
    # 120 in 24 s are 5 a second; the other 120 take 24 s more
    assert progress_line(120, 1, 240, 24.0) == "120/240 images, 1 failed, 5.0 images/s, 0:24 left"


def test_before_the_first_image_nothing_is_promised() -> None:
    assert progress_line(0, 0, 240, 0.0) == "0/240 images, 0 failed, 0.0 images/s, --:-- left"
    assert progress_line(0, 0, 240, 30.0).endswith("--:-- left")


def test_images_that_were_labeled_twice_after_a_failure_leave_no_negative_time() -> None:
    assert progress_line(250, 0, 240, 25.0).endswith("10.0 images/s, 0:00 left")


class Job:
    """Counts that rise while a job runs."""

    def __init__(self) -> None:
        self.done = 0
        self.watcher: threading.Thread | None = None

    def counts(self) -> tuple[int, int]:
        self.watcher = threading.current_thread()
        return self.done, 1


@pytest.fixture
def job() -> Job:
    return Job()


def screen(monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool) -> io.StringIO:
    written = io.StringIO()
    shown = PublicConsole(file=written, force_terminal=is_terminal, width=150, highlight=False)
    monkeypatch.setattr(console_module, "console", shown)
    monkeypatch.setattr(console_module, "TERMINAL_INTERVAL_S", 0.01)
    monkeypatch.setattr(console_module, "LOG_INTERVAL_S", 0.02)
    return written


def test_a_log_gets_a_plain_line_now_and_then(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    written = screen(monkeypatch, is_terminal=False)
    with show_progress("labeling", 7, job.counts):
        job.done = 3
        time.sleep(0.2)
    first, *_ = written.getvalue().splitlines()
    assert first.startswith("labeling: 3/7 images, 1 failed, ")
    assert "\x1b" not in written.getvalue()


def test_a_short_job_writes_nothing_to_a_log(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    written = screen(monkeypatch, is_terminal=False)
    monkeypatch.setattr(console_module, "LOG_INTERVAL_S", 60.0)
    with show_progress("labeling", 7, job.counts):
        job.done = 7
    assert written.getvalue() == ""


def test_the_bar_on_a_terminal_ends_on_the_last_counts(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    written = screen(monkeypatch, is_terminal=True)
    monkeypatch.setattr(console_module, "TERMINAL_INTERVAL_S", 60.0)
    with show_progress("labeling", 7, job.counts):
        job.done = 7  # after the bar was first drawn, before it is drawn again
    assert "labeling" in written.getvalue()
    assert "7/7 images, 1 failed" in written.getvalue()


def fail_after(seconds: float) -> None:
    time.sleep(seconds)
    raise RuntimeError("the job failed")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_job_that_fails_is_not_held_up_and_its_error_passes(
    job: Job, is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen(monkeypatch, is_terminal=is_terminal)
    with pytest.raises(RuntimeError, match="the job failed"), show_progress("labeling", 7, job.counts):
        fail_after(0.1)
    assert job.watcher is not None
    assert not job.watcher.is_alive()


def test_a_json_log_has_a_line_for_each_event(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(console_module, "console", PublicConsole(file=written, force_terminal=True))
    monkeypatch.setattr(summary, "console", console_module.console)
    monkeypatch.setattr(console_module, "LOG_INTERVAL_S", 0.05)
    with console_module.log_as_json("20261123T000000-abcdef"):
        console_module.console.print("joining s3://me:secret@host/a?sig=1")
        with show_progress("labeling", 7, lambda: (3, 1)):
            time.sleep(0.2)
        summary.summarize("s3://bucket/out", Counts(7, 6, 1, 9, {"damaged": 1}), 5, None, 2.0)
    assert console_module.console.run_id is None
    events = [json.loads(line) for line in written.getvalue().splitlines()]
    assert {event["run_id"] for event in events} == {"20261123T000000-abcdef"}
    assert [event["event"] for event in events] == ["message", *["progress"] * (len(events) - 2), "done"]
    assert "secret" not in written.getvalue()
    kept = {name: events[1][name] for name in ("step", "done", "failed", "total")}
    assert kept == {"step": "labeling", "done": 3, "failed": 1, "total": 7}
    assert (events[-1]["images"], events[-1]["reasons"], events[-1]["labeled"]) == (7, {"damaged": 1}, 5)
