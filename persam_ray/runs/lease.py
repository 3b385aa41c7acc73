"""A lease lets one job at a time write to an output: a small file that the job's driver renews, on any storage.

The driver that holds the lease writes a new number every 4 s. A second job that finds the file watches it for 15 s. If
the number changes, the first job is alive and the second is refused. If it does not, the first job is dead and the
second takes over. Clocks are not compared.
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
    """The lease of one output, held while the `with` block runs.

    Args:
        output: URI of the run directory.

    Raises:
        LeaseError: On entering the block: another job holds the lease.
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
        """Take the lease; if another job left one, first wait until it is clear whether that job is alive."""
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
        return self  # of two jobs that enter at once, the later writer has it: `check` tells

    def __exit__(self, *_: object) -> None:
        """Release the lease."""
        self._ended.set()
        self._renewal.join()
        with suppress(StorageError):  # if the file stays, the next job waits for it
            if self._lost_to is None and self._is_ours(self._read()):
                remove(self._uri)

    def check(self) -> None:
        """Raise LeaseError if another job has taken over: it entered at the same moment, or this job seemed dead."""
        if self._lost_to is None and not self._is_ours(found := self._read()):
            self._lost_to = found or {}
        self.check_told()

    def check_told(self) -> None:
        """Raise LeaseError if a renewal has found that another job took over; the file is not read again."""
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
                continue  # without the storage, writing predictions fails too, and reports it

    def _is_ours(self, found: dict[str, Any] | None) -> bool:
        return found is not None and found.get("job") == self._content["job"]

    def _read(self) -> dict[str, Any] | None:
        """Return the content of the lease file; None only if there is no file."""
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
        """Tell, without waiting, whether a job's process has ended; False if this process cannot know.

        Process numbers can be compared only within one boot of one machine, and within one container.
        """
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
    """Return the machine's boot id and the process namespace: processes that share both see each other's numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return {"boot": boot, "namespace": str(Path("/proc/self/ns/pid").readlink())}
    except OSError:
        return {"boot": None, "namespace": None}


def _who(content: dict[str, Any]) -> str:
    return f"process {content['pid']} on {content['host']}" if {"pid", "host"} <= content.keys() else "it has ended"
