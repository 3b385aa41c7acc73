"""The last stage: rows become Parquet files named after their keys, and one small summary row for each file goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from persam_ray.data.schema import IMAGES, PREDICTIONS, mask_fields
from persam_ray.data.storage import join, write_parquet
from persam_ray.masks import decode_rle, drop_small_components
from persam_ray.metrics.summary import pack
from persam_ray.runs.effort import CacheUse, Effort
from persam_ray.runs.parts import MATCHES_FOLDER, part_name, write_part
from persam_ray.stages.judge import JudgeOptions, judge_rows
from persam_ray.stages.progress import Report
from persam_ray.stages.tables import LABELED, SUMMARY, WRITTEN


@dataclass(frozen=True)
class Run:
    """A run directory that a pass over the images writes; one pass may write several.

    Attributes:
        folder: URI of the run directory.
        method: Name of the method whose rows it takes.
        judge: How rows with ground truth are judged.
        min_area_fraction: Connected parts of a mask that cover less than this fraction of the image, 0 to 1, are
            dropped.
    """

    folder: str
    method: str
    judge: JudgeOptions
    min_area_fraction: float = 0.0


@dataclass(frozen=True)
class WritePredictions:
    """Writes the rows of each run as Parquet files named after their keys, so a retried task writes the same files.

    Attributes:
        runs: The run directories, by name.
        reference_ids: Keys of photos that are not judged, because the method has seen their masks.
    """

    runs: Mapping[str, Run]
    reference_ids: frozenset[str] = frozenset()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Write LABELED rows and return a SUMMARY row for each file; `judged` is null where no row has ground truth."""
        summaries = []
        for name, run in self.runs.items():
            own = table.filter(pc.equal(table["method"], run.method))
            is_read = pc.is_valid(own["version"])
            # The next run drops photos that could not be read, to try them again: they get a file of their own.
            for rows in (own.filter(is_read), own.filter(pc.invert(is_read))):
                if len(rows):
                    summaries.append({"run": name, **self._write(rows, run)})
        return pa.Table.from_pylist(summaries, schema=SUMMARY)

    def _write(self, table: pa.Table, run: Run) -> dict[str, Any]:
        """Write a file, and return its SUMMARY row without the run's name."""
        started_s = time.perf_counter()
        effort = effort_of(table)
        if run.min_area_fraction:
            rows = [without_small_parts(row, run.min_area_fraction) for row in table.to_pylist()]
            table = pa.Table.from_pylist(rows, schema=LABELED)
        annotated = [row for row in table.drop(["error", "method"]).to_pylist() if self._is_judged(row)]
        judged = None
        if annotated:
            summary, matches = judge_rows(annotated, run.judge)
            judged = pack(summary)
            write_parquet(join(run.folder, MATCHES_FOLDER, part_name(table)), matches)
        counts = write_part(run.folder, table.select(PREDICTIONS.names).cast(PREDICTIONS), judged)
        effort += Effort({"write": time.perf_counter() - started_s})
        return {"file": part_name(table), "counts": counts.to_json(), "judged": judged, "effort": effort.to_json()}

    def _is_judged(self, row: Mapping[str, Any]) -> bool:
        """Tell whether a row is judged. A failed photo is not: it was never compared, and counts as failed."""
        return row["annotations"] is not None and row["status"] == "ok" and row["image_id"] not in self.reference_ids


def effort_of(table: pa.Table) -> Effort:
    """Add up the work of LABELED rows."""
    steps = [dict(spent) for spent in table["seconds"].to_pylist()]
    cache = CacheUse.of(table["cache"].to_pylist(), table["cache_failure"].to_pylist())
    return reduce(add, map(Effort, steps), Effort(cache=cache))


def without_small_parts(row: Mapping[str, Any], min_area_fraction: float) -> dict[str, Any]:
    """Return a row of predictions without the connected parts of masks that cover less than a fraction of the image."""
    size_hw = (row["height"], row["width"])
    instances = []
    for instance in row["instances"]:
        mask_hw = drop_small_components(decode_rle(instance["rle"], size_hw), min_area_fraction)
        if mask_hw.any():
            instances.append(instance | mask_fields(mask_hw))
    return {**row, "instances": instances}


ROWS_PER_GROUP = 32  # so that a reader of 4 MB photos needs 128 MB, not the whole file


@dataclass(frozen=True)
class WriteImages:
    """Writes each table of READ rows as one Parquet shard of IMAGES rows.

    Attributes:
        folder: URI to write below.
        report: Function that progress is reported to.
    """

    folder: str
    report: Report

    def __call__(self, table: pa.Table) -> pa.Table:
        """Write the rows and return one WRITTEN row; values that could not be read are null in the shard."""
        images = table.select(IMAGES.names).cast(IMAGES)
        name = part_name(table)
        # photos are compressed already
        write_parquet(join(self.folder, name), images, compression="none", row_group_size=ROWS_PER_GROUP)
        errors = table.select(["image_id", "error"]).to_pylist()
        problems = [f"{row['image_id']}: {row['error']}" for row in errors if row["error"]]
        self.report(len(table), len(problems))
        return pa.Table.from_pylist([{"images": len(table), "problems": problems}], schema=WRITTEN)
