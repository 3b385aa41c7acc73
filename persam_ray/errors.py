"""TODO errors."""

from __future__ import annotations

from persam_ray.text import printable, public


class CheckpointError(ValueError):
    """The file is not a checkpoint of a known layout; the message says what was found."""


class BadReferenceError(ValueError):
    """A reference photo or mask cannot tell SAM what to look for; the message says why."""


class ConfigError(Exception):
    """An option is wrong; the message names it and says what is allowed.

    Not a ValueError: tyro catches those, and would break the message over the lines of a box.
    """


def is_ours(error: BaseException) -> bool:
    """Return whether an error was raised for the user to read, rather than by a mistake of ours."""
    is_for_users = isinstance(error, (ConfigError, ValueError, OSError))
    return is_for_users and type(error).__module__.startswith("persam_ray")


def error_line(error: BaseException) -> str:
    """Return an error in one line without secrets, with its type where it was not raised for the user to read."""
    message = str(error).partition("\nFailed to ")[0]  # Ray Data appends advice on its retries
    line = printable(public(" ".join(message.split())))
    return line if is_ours(error) else f"{type(error).__name__}: {line}"
