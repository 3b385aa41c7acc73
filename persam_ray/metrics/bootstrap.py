"""How sure a difference between two methods is: the paired percentile bootstrap over images.

Two summaries of the same images come in; the difference of a statistic and its 95% interval go out.

Suffixes: d detection, k category, b resample, n image.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from persam_ray.metrics.scores import MAX_DETECTIONS, by_category, mean_of_defined, precision_at_recalls, true_and_false
from persam_ray.metrics.summary import FloatArray, Rows, ShardSummary

Statistic = Literal["miou", "precision", "recall", "f1", "ap50"]


BLOCK = 2**20  # numbers held at once while resampling: 8 MB for each array


AP_WORK = 10**8  # detections times resamples that a difference of AP50 may cost: ten seconds or so


@dataclass(frozen=True)
class Difference:
    """A method's statistic minus a baseline's, with the 95% interval over resampled images; None where undefined."""

    difference: float | None
    low: float | None
    high: float | None
    resamples: int


Estimator = Callable[[FloatArray], FloatArray]  # how often each image counts (b, n) -> the statistic (b)


def bootstrap_difference(
    method: ShardSummary,
    baseline: ShardSummary,
    statistic: Statistic,
    *,
    category: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Difference:
    """Compare two methods by the paired percentile bootstrap: images are drawn with replacement, for both alike.

    Args:
        method: The summary of a method, over all images.
        baseline: The summary of the other method: the same images, categories and truth.
        statistic: A figure of `accumulate`; `ap50` keeps copies of an image together among equal scores.
        category: One category; None for the overall figure.
        resamples: At least 1; AP50 takes fewer, down to 100, where detections times resamples would exceed AP_WORK.
        seed: Seeds the generator; besides the images, the result depends on nothing else.

    Raises:
        ValueError: The summaries cannot be compared, or the category is not among theirs.
    """
    _check_comparable(method, baseline)
    if category is not None and category not in method.categories:
        raise ValueError(f"category {category!r} was not evaluated; allowed: {', '.join(method.categories)}")
    chosen = [k for k, name in enumerate(method.categories) if category in {None, name}]
    if statistic == "ap50":
        detections = len(method.detections) + len(baseline.detections)
        resamples = min(resamples, max(100, AP_WORK // max(1, detections)))
    ours, theirs = (_estimator(summary, statistic, chosen) for summary in (method, baseline))
    images = len(method.images)
    every_image_once = np.ones((1, images))
    difference = float((ours(every_image_once) - theirs(every_image_once))[0])
    blocks = _resampled_counts(images, resamples, seed)
    differences_b = np.concatenate([ours(counts_bn) - theirs(counts_bn) for counts_bn in blocks])
    defined = differences_b[~np.isnan(differences_b)]
    low, high = np.percentile(defined, [2.5, 97.5]).tolist() if len(defined) else (None, None)
    return Difference(None if np.isnan(difference) else difference, low, high, resamples)


def _check_comparable(method: ShardSummary, baseline: ShardSummary) -> None:
    if len(method.images) == 0:
        raise ValueError("there are no images to resample")
    pairs = [(part.categories, np.sort(part.images), part.truths_ka) for part in (method, baseline)]
    for name, ours, theirs in zip(("categories", "images", "truth"), *pairs, strict=True):
        if not np.array_equal(ours, theirs):
            raise ValueError(f"the two methods were not evaluated on the same {name}")


def _resampled_counts(images: int, resamples: int, seed: int) -> Iterator[FloatArray]:
    """Yield blocks (b, n) of multinomial counts: how often each of n images is drawn in n draws."""
    generator = np.random.default_rng(seed)
    rows = max(1, BLOCK // images)
    for start in range(0, resamples, rows):
        block = min(rows, resamples - start)
        drawn = generator.integers(images, size=(block, images)) + images * np.arange(block)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=block * images)
        yield counts.reshape(block, images).astype(np.float64)


def _estimator(summary: ShardSummary, statistic: Statistic, chosen: Sequence[int]) -> Estimator:
    """Return the statistic over the chosen categories as a function of how often each image, by its key, counts."""
    images = np.sort(summary.images)
    tallies, slices = by_category(summary.tallies, len(summary.categories))
    parts = [tallies[slices[k]] for k in chosen]
    if statistic == "ap50":
        detections, slices = by_category(summary.detections, len(summary.categories))
        estimators = [_ap50(images, detections[slices[k]], part) for k, part in zip(chosen, parts, strict=True)]
    else:
        groups = parts if statistic == "miou" else [np.concatenate(parts)]
        estimators = [_ratio_of_sums(images, rows, statistic) for rows in groups]
    return lambda counts_bn: mean_of_defined(np.stack([estimate(counts_bn) for estimate in estimators]))


def _ratio_of_sums(images: npt.NDArray[np.uint64], tallies: Rows, statistic: Statistic) -> Estimator:
    held = tallies["truth_px"] > 0
    tp, fp, fn = (tallies[name].astype(np.float64) for name in ("tp", "fp", "fn"))
    part, whole = {
        "miou": (tallies["intersection"] * held, tallies["union"] * held),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
        "f1": (2 * tp, 2 * tp + fp + fn),
    }[statistic]
    keys, owners = np.unique(tallies["image"], return_inverse=True)
    places = np.searchsorted(images, keys)
    sums = np.stack([np.bincount(owners, weights=weights, minlength=len(keys)) for weights in (part, whole)], axis=1)

    def estimate(counts_bn: FloatArray) -> FloatArray:
        parts_b, wholes_b = (counts_bn[:, places] @ sums).T
        with np.errstate(invalid="ignore"):
            return np.asarray(parts_b / wholes_b)

    return estimate


def _ap50(images: npt.NDArray[np.uint64], detections: Rows, tallies: Rows) -> Estimator:
    true_d, false_d = true_and_false(detections)
    used_d = (detections["rank"] < MAX_DETECTIONS) & (true_d | false_d)
    true_d, false_d = true_d[used_d], false_d[used_d]
    places_d = np.searchsorted(images, detections["image"][used_d])
    tally_places = np.searchsorted(images, tallies["image"])
    tally_truths = (tallies["tp"] + tallies["fn"]).astype(np.float64)

    def estimate(counts_bn: FloatArray) -> FloatArray:
        values_b = np.full(len(counts_bn), np.nan)
        for b, counts_n in enumerate(counts_bn):
            if truths := float(counts_n[tally_places] @ tally_truths):
                counts_d = counts_n[places_d]
                values_b[b] = precision_at_recalls(true_d * counts_d, false_d * counts_d, truths).mean()
        return values_b

    return estimate
