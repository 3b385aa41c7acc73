"""Errors that a user can cause: all of them derive from one class, and read as one line."""

from collections.abc import Sequence

from persam_ray.text import printable, public


class PersamRayError(Exception):
    """Something that a user can put right: an option, a file, a photo, a cluster. The message says what and how.

    Every error that this package raises on purpose derives from it; any other exception is a fault of the package.
    """


class ConfigError(PersamRayError):
    """An option is wrong; the message names it and says what is allowed.

    Not a ValueError: tyro catches those, and would break the message over the lines of a box.
    """


class CheckpointError(PersamRayError, ValueError):
    """The file is not a checkpoint of a known layout; the message says what was found."""


class BadReferenceError(PersamRayError, ValueError):
    """A reference photo or mask cannot tell SAM what to look for; the message says why."""


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise ConfigError unless a value is one of those allowed.

    Args:
        name: Name of the option or parameter, for the message.
        value: The value given.
        allowed: All values that are allowed; at least two.
    """
    if value not in allowed:
        *first, last = allowed
        raise ConfigError(f"{name} must be {', '.join(first)} or {last}, but is {value!r}")


def error_line(error: BaseException) -> str:
    """Return an error in one line without secrets; with its type where no user can have caused it."""
    message = str(error).partition("\nFailed to ")[0]  # Ray Data appends advice on its retries
    line = printable(public(" ".join(message.split())))
    return line if isinstance(error, PersamRayError) else f"{type(error).__name__}: {line}"
