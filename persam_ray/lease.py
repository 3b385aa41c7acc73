"""One job at a time on an output: a file that its driver renews, on any storage.

The driver that holds it writes a new number every few seconds. Another that finds the file watches it: a number that
moves belongs to a living job, one that stands still to a dead one, and is taken over. Clocks are not compared.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from typing import Any, Self

from persam_ray.progress import console
from persam_ray.storage import StorageError, exists, join, read_json, remove, write_json

FILE = ".lease.json"  # hidden: no part of the run
RENEWED_EVERY_S = 4.0
DEAD_AFTER_S = 15.0


class LeaseError(ValueError):
    """Another job writes to the output; the message says which."""


class Lease:
    """Held while the `with` block runs.

    Args:
        output: URI of the run directory.

    Raises:
        LeaseError: On entering: another job holds it.
        StorageError: The output cannot be written.
    """

    def __init__(self, output: str) -> None:
        self._uri = join(output, FILE)
        self._output = output
        self._content: dict[str, Any] = {"job": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid()}
        self._ended = threading.Event()
        self._lost_to: dict[str, Any] | None = None
        self._renewal = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> Self:
        """Take the lease, waiting for as long as it takes to tell a dead job from a living one."""
        found = self._read()
        if found and not self._is_dead(found):
            console.print(f"{self._output}: another job was here ({_who(found)}); waiting {DEAD_AFTER_S:.0f} s for it")
            deadline_s = time.monotonic() + DEAD_AFTER_S
            while time.monotonic() < deadline_s and (now := self._read()):
                if now != found:
                    raise LeaseError(f"--output {self._output}: another job writes there ({_who(now)})")
                time.sleep(1.0)
        self._write(0)
        self._renewal.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self._ended.set()
        self._renewal.join()
        if not self._lost_to:
            remove(self._uri)

    def check(self) -> None:
        """Raise LeaseError if another job has taken over since: this one had seemed dead."""
        if self._lost_to:
            raise LeaseError(f"--output {self._output}: another job has taken over ({_who(self._lost_to)})")

    def _renew(self) -> None:
        beat = 0
        while not self._ended.wait(RENEWED_EVERY_S):
            beat += 1
            try:
                found = self._read()
                if found and found.get("job") != self._content["job"]:
                    self._lost_to = found
                    return
                self._write(beat)
            except StorageError:
                continue  # the storage is away; so are the predictions, which will say so

    def _read(self) -> dict[str, Any] | None:
        try:
            found = read_json(self._uri) if exists(self._uri) else None
        except StorageError:
            return None  # it went between the two calls
        return found if isinstance(found, dict) else None

    def _write(self, beat: int) -> None:
        write_json(self._uri, {**self._content, "beat": beat})

    def _is_dead(self, found: dict[str, Any]) -> bool:
        """Tell at once where its process would be on this machine."""
        pid = found.get("pid")
        if found.get("host") != self._content["host"] or not isinstance(pid, int):
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return pid == os.getpid()


def _who(content: dict[str, Any]) -> str:
    return f"process {content.get('pid')} on {content.get('host')}"
