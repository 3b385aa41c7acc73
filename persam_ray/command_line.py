"""From a command line to a job's options, and from a job's errors to one clear line.

A YAML file given by `--config` is turned into flags that stand before those of the command line: both are checked
alike, and the command line wins.
"""

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro
import yaml

from persam_ray.config import ConfigError, JobConfig
from persam_ray.storage import read_bytes

ConfigT = TypeVar("ConfigT", bound=JobConfig)


def parse(config_class: type[ConfigT], arguments: Sequence[str]) -> ConfigT:
    """Read a job's options from the command line and the YAML file that it names.

    Raises:
        ConfigError: An option has a value that is not allowed, or the YAML file is not a mapping of options.
        SystemExit: `--help`, or an unknown option (status 2, with a message).
    """
    return tyro.cli(config_class, args=[*_from_yaml(arguments), *arguments], config=(tyro.conf.FlagCreatePairsOff,))


def _from_yaml(arguments: Sequence[str]) -> list[str]:
    uri = _config_argument(arguments)
    if uri is None:
        return []
    try:
        content = yaml.safe_load(read_bytes(uri)) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {uri}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--config {uri}: must be a mapping of option names to values, but is {content!r:.60}")
    given = {argument.split("=", 1)[0].replace("_", "-") for argument in arguments if argument.startswith("--")}
    flags: list[str] = []
    for key, value in content.items():
        flag = "--" + str(key).replace("_", "-")
        if flag not in given:
            flags += _flags(flag, value)
    return flags


def _flags(flag: str, value: object) -> list[str]:
    if value is None or value is False:
        return []
    if value is True:
        return [flag]
    values = value if isinstance(value, list) else [value]
    return [text for item in values for text in (flag, str(item))]


def _config_argument(arguments: Sequence[str]) -> str | None:
    for index, argument in enumerate(arguments):
        if argument == "--config" and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith("--config="):
            return argument.removeprefix("--config=")
    return None


def run_job(job: Callable[[ConfigT], None], config_class: type[ConfigT]) -> None:
    """Parse the options, run the job, and end the process: status 0 when complete, else one line that says why."""
    try:
        job(parse(config_class, sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("error: interrupted")
    except Exception as error:
        from persam_ray.cluster import cause_of

        cause = cause_of(error)
        if isinstance(cause, (ValueError, OSError)) and type(cause).__module__.startswith("persam_ray"):
            sys.exit(f"error: {' '.join(str(cause).split())}")
        raise
