"""Time and memory of evaluating and merging many instances in shards: `python benchmarks/evaluation_scale.py`.

Worker processes evaluate shards of small synthetic images (32 x 32, about 5 predictions and 4 truths each) and send
their summaries; the driver, this process, merges and accumulates them. Peak memory (RSS) is the driver's own, read
after each size, so sizes must rise. Real photos cost the workers more time; the driver's cost
does not depend on the masks.
"""

import argparse
import functools
import multiprocessing
import resource
import time
from collections.abc import Iterator
from multiprocessing.pool import Pool

import numpy as np

from persam_ray.masks import encode_rle
from persam_ray.metrics.bootstrap import bootstrap_difference
from persam_ray.metrics.evaluation import evaluate_shard
from persam_ray.metrics.instances import ImagePair, PredictedInstance, TruthInstance
from persam_ray.metrics.scores import accumulate
from persam_ray.metrics.summary import ShardSummary, merge
from persam_ray.types import BoolArray

SIZE_HW = (32, 32)
CATEGORIES = ("top", "bag", "footwear")
PREDICTIONS_PER_IMAGE = 5
SHARD_INSTANCES = 10_000


def synthetic_pairs(shard: int, predictions: int) -> Iterator[ImagePair]:
    """Yield images until they hold so many predictions, near 8 places where truth may lie, so that many match."""
    rng = np.random.default_rng(shard)
    places = [encode_rle(_square(y, x, 10)) for y in (0, 20) for x in (0, 7, 14, 21)]
    near = [[encode_rle(_square(y, x + step, 10)) for step in (0, 1, 3)] for y in (0, 20) for x in (0, 7, 14, 19)]
    for index in range(predictions // PREDICTIONS_PER_IMAGE):
        truths = tuple(
            TruthInstance(CATEGORIES[int(place) % 3], places[place], iscrowd=bool(rng.random() < 0.02))
            for place in rng.permutation(8)[: rng.integers(0, 9)]
        )
        found_instances = tuple(
            PredictedInstance(CATEGORIES[int(place) % 3], near[place][rng.integers(0, 3)], round(rng.random(), 3))
            for place in rng.permutation(8)[:PREDICTIONS_PER_IMAGE]
        )
        yield ImagePair(f"{shard}/{index}.jpg", SIZE_HW, truths, found_instances)


def _square(y: int, x: int, side: int) -> BoolArray:
    mask_hw = np.zeros(SIZE_HW, dtype=np.bool_)
    mask_hw[y : y + side, x : x + side] = True
    return mask_hw


def evaluate(shard: int, predictions: int) -> ShardSummary:
    """Evaluate one shard, in a worker."""
    return evaluate_shard(synthetic_pairs(shard, predictions), CATEGORIES, score_threshold=0.5)[0]


def peak_mib() -> float:
    """Return this process's highest resident memory so far (ru_maxrss is in KiB on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(pool: Pool, size: int) -> str:
    """Evaluate this many predictions in shards, merge, accumulate, compare with themselves (in brackets: resamples)."""
    times_s = [time.perf_counter()]
    work = functools.partial(evaluate, predictions=min(size, SHARD_INSTANCES))
    parts = list(pool.imap_unordered(work, range(max(1, size // SHARD_INSTANCES))))
    times_s.append(time.perf_counter())
    summary = merge(parts)
    times_s.append(time.perf_counter())
    metrics = accumulate(summary)
    times_s.append(time.perf_counter())
    peak = peak_mib()
    resamples = []
    for statistic in ("miou", "ap50"):
        resamples.append(bootstrap_difference(summary, summary, statistic).resamples)
        times_s.append(time.perf_counter())
    evaluate_s, merge_s, accumulate_s, miou_s, ap50_s = np.diff(times_s)
    return (
        f"{len(summary.detections):>9,} predictions, {len(summary.images):>7,} images, {len(parts):>3} shards: "
        f"evaluate {evaluate_s:.1f} s, merge {merge_s:.2f} s, accumulate {accumulate_s:.2f} s, "
        f"peak {peak:.0f} MiB (AP {metrics.overall['map']:.3f}); bootstrap mIoU {miou_s:.1f} s ({resamples[0]}), "
        f"AP50 {ap50_s:.1f} s ({resamples[1]}), peak {peak_mib():.0f} MiB"
    )


def main() -> None:
    """Print one line for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="predictions, rising"
    )
    parser.add_argument("--workers", type=int, default=2, help="worker processes")
    options = parser.parse_args()
    print(f"{options.workers} workers; the driver before: {peak_mib():.0f} MiB")
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        for size in sorted(options.sizes):
            print(measure(pool, size), flush=True)


if __name__ == "__main__":
    main()
