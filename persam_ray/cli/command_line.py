"""Read a job's options from the command line, run the job, and turn its errors into one clear line.

A YAML file given by `--config` becomes flags in front of those of the command line. Both are checked in the same way,
and the command line wins.
"""

import reprlib
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TypeVar, get_origin, get_type_hints

import tyro
import yaml

from persam_ray.cli import demo
from persam_ray.cli.pipe import reader_may_leave
from persam_ray.errors import ConfigError, PersamRayError, error_line
from persam_ray.options.base import OutputConfig
from persam_ray.text import printable, public

NULL = ("", "~", "null", "Null", "NULL")
BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

ConfigT = TypeVar("ConfigT", bound=OutputConfig)


def parse(config_class: type[ConfigT], arguments: Sequence[str], program: str | None = None) -> ConfigT:
    """Read a job's options from the command line and the YAML file that it names.

    Raises:
        ConfigError: An option has a value that is not allowed, or the YAML file is not a mapping of options.
        SystemExit: `--help`, or an unknown option (status 2, with a message).
    """
    flags = [*_from_yaml(config_class, arguments), *arguments]
    given = [flag.split("=", 1)[0].replace("_", "-") for flag in flags if flag.startswith("--")]
    flags = [*demo.options(config_class, given), *flags]
    return tyro.cli(config_class, prog=program, args=flags, config=(tyro.conf.FlagCreatePairsOff,))


def _from_yaml(config_class: type[OutputConfig], arguments: Sequence[str]) -> list[str]:
    uri = _config_argument(arguments)
    if uri is None:
        return []
    from persam_ray.data.storage import read_bytes

    try:
        content = yaml.load(read_bytes(uri), Loader=yaml.BaseLoader) or {}  # all text: the category `no` is no boolean
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"--config {uri}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--config {uri}: must be a mapping of option names to values, but is {_brief(content)}")
    allowed = {"--" + name.replace("_", "-"): kind for name, kind in get_type_hints(config_class).items()}
    del allowed["--config"]
    given = {argument.split("=", 1)[0].replace("_", "-") for argument in arguments if argument.startswith("--")}
    flags: list[str] = []
    for key, value in content.items():
        flag = "--" + str(key).replace("_", "-")
        if flag not in allowed:
            raise ConfigError(f"--config {uri}: unknown option {key!r}; allowed are {', '.join(allowed)}")
        if flag not in given:
            flags += _flags(uri, flag, value, allowed[flag])
    return flags


def _flags(uri: str, flag: str, value: object, kind: object) -> list[str]:
    """Return the flags that a YAML value stands for; none for null, which keeps the default."""
    if value in NULL:
        return []
    if kind is bool:
        if str(value).lower() not in BOOLEANS:
            raise ConfigError(f"--config {uri}: {flag} must be true or false, but is {_brief(value)}")
        return [flag] if BOOLEANS[str(value).lower()] else []
    values = value if isinstance(value, list) and get_origin(kind) is tuple else [value]
    if not all(isinstance(item, str) for item in values):
        raise ConfigError(
            f"--config {uri}: {flag} must be one value (or a list, if it repeats), but is {_brief(value)}"
        )
    return [f"{flag}={item}" for item in values]


def _brief(value: object) -> str:
    """Return the beginning of a value. `repr` would expand YAML aliases, up to a billion times in a hostile file."""
    return reprlib.repr(value)[:60]


def _config_argument(arguments: Sequence[str]) -> str | None:
    for index, argument in enumerate(arguments):
        if argument == "--config" and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith("--config="):
            return argument.removeprefix("--config=")
    return None


def run_job(
    config_class: type[ConfigT],
    load: Callable[[], Callable[[ConfigT], int | None]],
    arguments: Sequence[str],
    program: str,
) -> None:
    """Parse the options, run the job, and end the process with its status, or with 1 and a line that says why.

    Args:
        config_class: The job's options.
        load: Returns the job. It is called after the options are checked, because a job's libraries load for seconds.
        arguments: Arguments of the command line.
        program: Program name in `--help`.
    """
    try:
        with reader_may_leave():
            config = parse(config_class, arguments, program)
        sys.exit(load()(config))
    except KeyboardInterrupt:
        sys.exit("error: interrupted")
    except Exception as error:
        from persam_ray.cluster.session import cause_of

        cause = cause_of(error)
        if isinstance(cause, PersamRayError):
            sys.exit(f"error: {error_line(cause)}")
        lines = public(traceback.format_exc()).splitlines()
        sys.exit("\n".join(printable(line) for line in lines))
