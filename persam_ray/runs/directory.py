"""A run directory: checked, held by one job, and kept to runs that agree.

run.json         written first: the options that decide the predictions, and the runs so far
predictions/     part files, one row for each photo
matches/         objects found, missed or reported wrongly, for photos that have ground truth
manifest.json    written last: the run is complete
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from persam_ray.data.storage import (
    absolute,
    check_writable,
    exists,
    join,
    list_files,
    read_json,
    remove,
    within,
    write_json,
)
from persam_ray.errors import PersamRayError
from persam_ray.methods.registry import FILTERED, TITLES
from persam_ray.runs.lease import Lease
from persam_ray.runs.parts import PREDICTIONS_FOLDER

RUN = "run.json"
SHOWN = 5  # longest list whose values a message shows

OWN_FILES = re.compile(
    rf"((training|({'|'.join(TITLES)})({FILTERED})?)/)?"  # folders of a benchmark
    r"((manifest|metrics|training|benchmark|run)\.json|(mask_rcnn|compact_sam)\.safetensors|report/index\.html"
    r"|((predictions|matches|scenes)/)?part-[0-9a-f]{16}\.parquet|checkpoints/(checkpoint_.+/state\.pt|[^/]+\.json))"
)
"""Files that the jobs write below their output; `--overwrite` removes no others."""


class OutputError(PersamRayError, ValueError):
    """The output cannot be used for this run; the message says why."""


def prepare_output(output: str, inputs: Iterable[str], *, overwrite: bool, resume: bool = False) -> str:
    """Check, before any work, that a run can be written, and return its URI; a path becomes absolute.

    Args:
        output: The run directory.
        inputs: URIs that the job reads. None of them may lie in the output, nor the output in one of them.
        overwrite: Remove an earlier run's files; files that no run writes are never removed.
        resume: Keep an earlier run's files, to go on with that run.

    Raises:
        OutputError: The output holds files already, or the output and an input lie within each other.
        StorageError: The output cannot be written.
    """
    output, existing = _check(output, inputs)
    if resume:
        return output
    if existing and not overwrite:
        raise OutputError(
            f"--output {output}: holds {len(existing)} files already ({existing[0]}, ...); use --overwrite"
        )
    for name in sorted(existing, key=lambda name: name != RUN):  # run.json first: without it, no job resumes the rest
        remove(join(output, name))
    return output


def _check(output: str, inputs: Iterable[str]) -> tuple[str, list[str]]:
    """Return the absolute URI of an output that a run can be written to, and the files of earlier runs there."""
    output = absolute(output).rstrip("/") or "/"
    for uri in map(absolute, inputs):
        if within(uri, output) or within(output, uri):
            raise OutputError(f"--output {output}: must not lie within {uri}, which is read, nor the other way round")
    check_writable(output)
    existing = list_files(output)
    foreign = [name for name in existing if not OWN_FILES.fullmatch(name)]
    if foreign:
        raise OutputError(f"--output {output}: holds files that no run writes ({foreign[0]}, ...); choose another")
    return output, existing


@contextmanager
def open_run(output: str, inputs: Iterable[str], *, overwrite: bool) -> Iterator[tuple[str, Lease]]:
    """Hold a run directory for one job, which begins a run or resumes one.

    Args:
        output: The run directory.
        inputs: As for `prepare_output`.
        overwrite: Remove an earlier run's files.

    Yields:
        Its absolute URI, and the lease.

    Raises:
        OutputError: As for `prepare_output`; or the directory holds files of a run that cannot be resumed.
        LeaseError: Another job writes there.
        StorageError: The output cannot be written.
    """
    output, _ = _check(output, inputs)
    with Lease(output) as lease:
        resume = not overwrite and exists(join(output, RUN))
        yield prepare_output(output, inputs, overwrite=overwrite, resume=resume), lease


def begin_run(output: str, identity: Mapping[str, Any], run_id: str) -> list[dict[str, Any]]:
    """Write run.json, which says what decides the predictions, and remove the manifest until the run is complete.

    Args:
        output: The run directory.
        identity: Values that decide the predictions, by option name. All runs of a directory must agree in them.
        run_id: This run's id.

    Returns:
        The runs so far, this one last, each with its `run_id` and `started` (UTC); complete ones have their counts.

    Raises:
        OutputError: The directory holds predictions of a run with another identity, and the message names a value that
            differs; or its run.json is damaged.
    """
    identity = json.loads(json.dumps(identity))
    uri = join(output, RUN)
    found: Any = read_json(uri) if exists(uri) else {"identity": identity, "runs": []}
    is_ours = (
        isinstance(found, dict) and isinstance(found.get("identity"), dict) and isinstance(found.get("runs"), list)
    )
    if not is_ours:
        raise OutputError(f"--output {output}: its run.json is damaged; use --overwrite, or another output")
    if differing := [name for name, value in identity.items() if found["identity"].get(name) != value]:
        _check_differing(output, found["identity"], identity, differing[0])
        found = {"identity": identity, "runs": []}
    runs = [*found["runs"], {"run_id": run_id, "started": utc_now()}]
    write_json(uri, {"identity": identity, "runs": runs})
    remove(join(output, "manifest.json"))
    return runs


def _check_differing(output: str, there: Mapping[str, Any], identity: Mapping[str, Any], name: str) -> None:
    """Raise OutputError if the earlier runs have labeled anything; runs that failed before that do not count."""
    predictions = join(output, PREDICTIONS_FOLDER)
    if not (exists(predictions) and list_files(predictions)):
        return
    value = identity[name]
    is_short = isinstance(value, str | float) or (isinstance(value, list) and len(value) <= SHOWN)
    differ = f"was {there.get(name)}, and now is {value}" if is_short else "differ"
    raise OutputError(
        f"--output {output}: holds a run whose {name} {differ}; give the same, another --output, or --overwrite"
    )


def utc_now() -> str:
    """Return the current time in UTC as ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
