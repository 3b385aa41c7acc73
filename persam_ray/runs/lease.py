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
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from persam_ray.console import console
from persam_ray.data.storage import StorageError, join, read_json, remove, write_json
from persam_ray.errors import PersamRayError

FILE = ".lease.json"  # hidden: no part of the run
RENEWED_EVERY_S = 4.0
DEAD_AFTER_S = 15.0


class LeaseError(PersamRayError, ValueError):
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
        self._content |= _processes()
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
        return self  # whoever came at the same moment and wrote later has it: `check` tells

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self._ended.set()
        self._renewal.join()
        with suppress(StorageError):  # then another job waits for it
            if self._lost_to is None and self._is_ours(self._read()):
                remove(self._uri)

    def check(self) -> None:
        """Raise LeaseError if another job has taken over since: it came at the same moment, or this one seemed dead."""
        if self._lost_to is None and not self._is_ours(found := self._read()):
            self._lost_to = found or {}
        self.check_told()

    def check_told(self) -> None:
        """As `check`, by what the last renewal found."""
        if self._lost_to is not None:
            raise LeaseError(f"--output {self._output}: another job has taken over ({_who(self._lost_to)})")

    def _renew(self) -> None:
        beat = 0
        while not self._ended.wait(RENEWED_EVERY_S):
            beat += 1
            try:
                found = self._read()
                if not self._is_ours(found):
                    self._lost_to = found or {}
                    return
                self._write(beat)
            except StorageError:
                continue  # the storage is away; so are the predictions, which will say so

    def _is_ours(self, found: dict[str, Any] | None) -> bool:
        return found is not None and found.get("job") == self._content["job"]

    def _read(self) -> dict[str, Any] | None:
        """Return what is there; None only if nothing is."""
        try:
            found = read_json(self._uri)
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        return found if isinstance(found, dict) else {}

    def _write(self, beat: int) -> None:
        write_json(self._uri, {**self._content, "beat": beat})

    def _is_dead(self, found: dict[str, Any]) -> bool:
        """Tell at once where its process would be one of those that this machine, or container, knows."""
        pid = found.get("pid")
        same = all(found.get(name) == self._content[name] for name in ("host", "boot", "namespace"))
        if not same or self._content["boot"] is None or not isinstance(pid, int) or not 0 < pid < 2**31:
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return pid == os.getpid()


def _processes() -> dict[str, str | None]:
    """Return what two processes agree in that see each other's numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return {"boot": boot, "namespace": str(Path("/proc/self/ns/pid").readlink())}
    except OSError:
        return {"boot": None, "namespace": None}


def _who(content: dict[str, Any]) -> str:
    return f"process {content['pid']} on {content['host']}" if {"pid", "host"} <= content.keys() else "it has ended"
