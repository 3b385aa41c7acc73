"""A Ray session: join a cluster or start a local one, keep Ray's own output off the terminal, and shut it down."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import ray
import ray.data
from ray._private import ray_constants
from ray.exceptions import RayTaskError

from persam_ray.console import console
from persam_ray.errors import ConfigError

BLOCK_BYTES = 4 * 2**20
"""Decoded photos travel in blocks of this size: 5 photos at 512 pixels, 1 at 1024. An actor is handed whole blocks:
with Ray's own 128 MiB the first actor would have 160 photos to label before the second had any."""


CONNECT_TIMEOUT_S = 10.0


@contextmanager
def session() -> Iterator[None]:
    """Join the cluster at RAY_ADDRESS, or start a local one; leave no process behind, even after an error or SIGTERM.

    A Ray that this process has joined before is taken as it is, and stays.

    Raises:
        ConfigError: No cluster answers at RAY_ADDRESS.
    """
    if ray.is_initialized():
        _quiet_ray_data()
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else Ray warns of how Ray Data makes its own actors
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray 2.60's coming default; silences its warning
    with _exit_on_sigterm():
        try:
            _join_or_start()
            _quiet_ray_data()
            yield
        finally:
            ray.shutdown()


def _join_or_start() -> None:
    if address := os.environ.get("RAY_ADDRESS"):
        check_address(address)
        console.print(f"joining Ray at {address}")
    else:
        ray_constants.ENABLE_RAY_CLUSTER = False  # a Ray of our own listens on 127.0.0.1 alone
    with _native_stderr_closed():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Let a scheduler's stop run the `finally` too. Only the main thread may ask for that; others leave it as it is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, _exit_on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def check_address(address: str) -> None:
    """Raise ConfigError if nothing answers at a Ray address; Ray itself would wait for it without a word.

    Args:
        address: HOST:PORT, with or without `ray://`; other forms (`auto`, `local`) are left to Ray.
    """
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not (colon and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ConfigError(f"RAY_ADDRESS={address}: no Ray cluster answers there ({error})") from error


@contextmanager
def _native_stderr_closed() -> Iterator[None]:
    """Keep Ray's C++ start-up lines (that it read the log level) off the terminal; exceptions come through."""
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def _exit_on_signal(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _quiet_ray_data() -> None:
    """Turn off Ray Data's display: its bars count blocks of each operator, ours count photos. Set the block size."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = BLOCK_BYTES
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # we raise errors, and print them once
    warnings.filterwarnings("ignore", "The minimum number of concurrent actors")  # a few photos need only one


def cause_of(error: BaseException) -> BaseException:
    """Return the error that a worker raised, without Ray's wrapping."""
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error
