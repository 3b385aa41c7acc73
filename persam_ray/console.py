"""What a person sees while a job runs: images done, failed, images/s and time left, on a terminal or in a log."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from persam_ray.text import printable, public

TERMINAL_INTERVAL_S = 0.25
LOG_INTERVAL_S = 15.0
LOG_WIDTH = 160


class PublicConsole(Console):
    """A console that shows no secrets, and each text in one line: file names and ids may hold anything."""

    run_id: str | None = None  # of the run whose log is JSON

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, or write a message of a JSON log."""
        shown = [printable(public(one)) if isinstance(one, str) else one for one in objects]
        if self.run_id is not None and all(isinstance(one, str) for one in shown):
            self.event("message", text=" ".join(shown))
        else:
            super().print(*shown, **options)

    def event(self, name: str, **values: Any) -> None:
        """Write one line of a JSON log."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": at, "run_id": self.run_id, "event": name, **values}
        self.file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.file.flush()


console = PublicConsole(stderr=True, highlight=False, soft_wrap=True, markup=False)  # data may hold [brackets]


@contextmanager
def log_as_json(run_id: str) -> Iterator[None]:
    """Write JSON lines within the block: `time` (UTC), `run_id`, `event`, and the event's own values.

    Events are `message` (`text`), `progress` (`step`, `done`, `failed`, `total`, every 15 seconds) and `done` (counts,
    metrics by category, output).
    """
    console.run_id = run_id
    try:
        yield
    finally:
        console.run_id = None


DoneAndFailed = Callable[[], tuple[int, int]]


@contextmanager
def show_progress(title: str, total: int, counts: DoneAndFailed) -> Iterator[None]:
    """Show the progress of the block within: a bar on a terminal, a line every 15 seconds in a log.

    Args:
        title: Name of the work.
        total: Number of images.
        counts: Returns images done and, among them, failed; called from another thread.
    """
    ended = threading.Event()
    watch = _watch_on_terminal if console.is_terminal and console.run_id is None else _watch_in_log
    thread = threading.Thread(target=watch, args=(title, total, counts, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=5)


def _watch_on_terminal(title: str, total: int, counts: DoneAndFailed, ended: threading.Event) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[line]}"), TimeElapsedColumn())
    started_s = time.monotonic()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=total, line="")
        is_last = False
        while not is_last:
            is_last = ended.wait(TERMINAL_INTERVAL_S)  # asked before the counts, so that the bar ends on the last ones
            done, failed = counts()
            line = progress_line(done, failed, total, time.monotonic() - started_s)
            bar.update(task, completed=done, line=line)


def _watch_in_log(title: str, total: int, counts: DoneAndFailed, ended: threading.Event) -> None:
    started_s = time.monotonic()
    while not ended.wait(LOG_INTERVAL_S):
        done, failed = counts()
        if console.run_id is None:
            console.print(f"{title}: {progress_line(done, failed, total, time.monotonic() - started_s)}")
        else:
            console.event("progress", step=title, done=done, failed=failed, total=total)


def progress_line(done: int, failed: int, total: int, elapsed_s: float) -> str:
    """Return one line of progress, such as `120/240 images, 1 failed, 5.2 images/s, 0:23 left`."""
    rate = done / elapsed_s if elapsed_s > 0 else 0.0
    left = clock(max(0, total - done) / rate) if rate > 0 else "--:--"
    return f"{done}/{total} images, {failed} failed, {rate:.1f} images/s, {left} left"


def show_table(table: Table) -> None:
    """Print a table, whole in a log, which has no width to keep to."""
    wide = console if console.is_terminal else Console(stderr=True, highlight=False, markup=False, width=LOG_WIDTH)
    wide.print(table)


def clock(seconds: float) -> str:
    """Format a duration as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
