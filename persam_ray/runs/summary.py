"""The lines that a labeling run prints at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from persam_ray.console import clock, console
from persam_ray.text import public

if TYPE_CHECKING:
    from persam_ray.metrics.scores import Metrics
    from persam_ray.runs.counts import Counts
    from persam_ray.runs.effort import CacheUse


def summarize(output: str, counts: Counts, labeled: int, metrics: Metrics | None, label_s: float) -> None:
    """Print the last lines of a run: what was labeled, what failed and why, the metrics, and where the results are.

    Args:
        output: The run directory.
        counts: Counts of all rows in the directory.
        labeled: Number of the rows that this run has made.
        metrics: Metrics of the run; None if there is no ground truth.
        label_s: Seconds that labeling took.
    """
    if console.run_id is not None:
        found = None if metrics is None else metrics.categories
        console.event(
            "done", **vars(counts), labeled=labeled, seconds=round(label_s, 3), metrics=found, output=public(output)
        )
        return
    if labeled:
        console.print(f"{labeled} images in {clock(label_s)} ({labeled / label_s:.1f} images/s)")
    console.print(f"{counts.images} rows: {counts.ok} ok with {counts.instances} instances, {counts.failed} failed")
    for reason, number in sorted(counts.reasons.items(), key=lambda item: -item[1]):
        console.print(f"  {number} failed: {reason}")
    for category, values in metrics.categories.items() if metrics else ():
        if values["miou"] is not None:
            console.print(f"{category}: mIoU {values['miou']:.3f}, AP50 {values['ap50']:.3f}")
    console.print(f"results: {output}")


def tell_cache_use(uri: str, use: CacheUse) -> None:
    """Print one line on how often the feature cache at a URI helped."""
    line = f"feature cache {public(uri)}: {use.hits} photos found, {use.misses} encoded"
    if use.not_kept:
        line += f"; it is full (--feature-cache-gb), {use.not_kept} were not kept"
    if use.failure:
        line += f"; it failed, and the run went on without: {use.failure}"
    console.print(line)
