"""From the summaries of evaluated shards to metrics, in the driver: merge, accumulate, compare two methods.

A summary holds no masks: 40 bytes per predicted instance, 56 per image and category that occurs in it, 8 per image.
A million predictions on a hundred thousand images are about 50 MB. Everything is ordered by score and by a hash of
the image's name before it is summed, so the figures do not depend on how the images were cut into shards.

Suffixes: a area range, t IoU threshold, d detection (predicted instance), k category, r recall, b resample, n image.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from persam_ray.types import BoolArray

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Rows = npt.NDArray[np.void]
Number = int | float | None
Statistic = Literal["miou", "precision", "recall", "f1", "ap50"]

SIZES = ("small", "medium", "large")
AREA_RANGES_PX = np.array([[0, 1e5**2], [0, 32**2], [32**2, 96**2], [96**2, 1e5**2]])
"""COCO's all, small, medium and large, both ends inclusive: truth by its annotated area, detections by their mask's."""

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MAX_DETECTIONS = 100
"""Average precision and recall look at the 100 best detections of an image and category; the counts at all."""

DETECTION = np.dtype(
    [
        ("image", np.uint64),  # image_key
        ("score", np.float64),
        ("matched", np.uint16, (4,)),  # by area range; bit t: matched at IoU threshold t
        ("ignored", np.uint16, (4,)),  # the same; set where it counts neither as right nor as wrong
        ("category", np.uint16),  # position in ShardSummary.categories
        ("rank", np.uint8),  # place by falling score among the image's detections of this category; 255: or later
    ],
    align=True,
)

TALLY = np.dtype(
    [
        ("image", np.uint64),
        ("intersection", np.int64),  # pixels
        ("union", np.int64),
        ("truth_px", np.int64),
        ("boundary_iou", np.float64),  # NaN where truth_px is 0
        ("tp", np.int32),
        ("fp", np.int32),
        ("fn", np.int32),
        ("category", np.uint16),
    ],
    align=True,
)

BLOCK = 2**20  # numbers held at once while resampling: 8 MB for each array
AP_WORK = 10**8  # detections times resamples that a difference of AP50 may cost: ten seconds or so


@dataclass(frozen=True, eq=False)
class ShardSummary:
    """What is left of evaluated images when the masks are gone; plain arrays, cheap to send.

    Attributes:
        categories: The categories evaluated.
        score_threshold: In [0, 1]; the tallies count predictions of at least this score.
        images: uint64 image_key of every image evaluated, those without any instance included.
        truths_ka: Number of truth instances that count, by category and area range.
        detections: DETECTION rows in any order.
        tallies: TALLY rows in any order, one for each image and category with truth or predictions.
    """

    categories: tuple[str, ...]
    score_threshold: float
    images: npt.NDArray[np.uint64]
    truths_ka: IntArray
    detections: Rows
    tallies: Rows


def merge(summaries: Iterable[ShardSummary]) -> ShardSummary:
    """Join the summaries of disjoint shards; merging in any order or grouping gives the same metrics.

    Raises:
        ValueError: There is none, they were made with different categories or thresholds, or an image is in two.
    """
    parts = list(summaries)
    if not parts:
        raise ValueError("there is no evaluated shard to merge")
    made_with = {(part.categories, part.score_threshold) for part in parts}
    if len(made_with) > 1:
        raise ValueError(f"shards were evaluated with different categories or score thresholds: {sorted(made_with)}")
    images = np.concatenate([part.images for part in parts])
    if repeated := len(images) - len(np.unique(images)):
        raise ValueError(f"{repeated} of {len(images)} images occur twice: an image must be in one shard only")
    return ShardSummary(
        parts[0].categories,
        parts[0].score_threshold,
        images,
        np.sum([part.truths_ka for part in parts], axis=0),
        np.concatenate([part.detections for part in parts]),
        np.concatenate([part.tallies for part in parts]),
    )


@dataclass(frozen=True)
class Metrics:
    """The figures of `accumulate`; None where one is undefined.

    Attributes:
        overall: Figures over all categories.
        categories: The same figures for each category.
        precision_curves: Precision at IoU 0.5 and at each of RECALLS (0, 0.01 ... 1), for categories that have truth.
    """

    overall: dict[str, Number]
    categories: dict[str, dict[str, Number]]
    precision_curves: dict[str, list[float]]

    def as_dict(self) -> dict[str, object]:
        """Return {"overall": {...}, "categories": {name: {...}}}, the content of `metrics.json`."""
        return {"overall": self.overall, "categories": self.categories}


def accumulate(summary: ShardSummary) -> Metrics:
    """Compute all metrics. Per category:

    - `map`, `ap50`, `ap75`, `ap_small`, `ap_medium`, `ap_large`, `ar1`, `ar10`, `ar100`, `ar_small`, `ar_medium`,
      `ar_large`: COCO's twelve numbers for masks, equal to `pycocotools.COCOeval` where images of equal scores come
      in the order of their keys.
    - `tp`, `fp`, `fn`, `precision`, `recall`, `f1` of the predictions of at least `score_threshold`, matched at
      `iou_threshold` 0.5 by COCO's rules, without its limit of 100 detections.
    - `best_score_threshold` and `best_tp` ... `best_f1`: the same at the threshold of highest F1, the highest such;
      None and no predictions where no threshold finds anything.
    - `miou`: summed intersection over summed union of the masks' unions (predictions of at least `score_threshold`),
      over images whose truth holds the category: the PerSAM paper's (arXiv:2305.03048). `miou_all_images`: over all,
      so that finding the category where it is not counts as well. `macc`: summed intersection over summed truth; its
      two variants are one, for images without truth add to neither sum.
    - `boundary_iou`: Boundary IoU (Cheng et al. 2021, 2% of the diagonal) of the same masks, mean over images whose
      truth holds the category.

    Overall, the twelve, `miou`, `macc` and `boundary_iou` are means over the categories where they are defined;
    counts are sums, and their ratios and the best threshold come from the sums.
    """
    detections, slices = _by_category(summary.detections, len(summary.categories))
    tallies, tally_slices = _by_category(summary.tallies, len(summary.categories))
    categories: dict[str, dict[str, Number]] = {}
    means: list[dict[str, float]] = []
    curves: dict[str, list[float]] = {}
    for k, name in enumerate(summary.categories):
        own, own_tallies, truths_a = detections[slices[k]], tallies[tally_slices[k]], summary.truths_ka[k]
        coco, curve_r = _coco_numbers(own, truths_a)
        means.append(coco | _region_numbers(own_tallies))
        categories[name] = _plain(means[-1]) | _count_numbers(summary, own, own_tallies, int(truths_a[0]))
        if truths_a[0]:
            curves[name] = curve_r.tolist()
    by_score = detections[np.argsort(-detections["score"], kind="stable")]
    counts = _count_numbers(summary, by_score, tallies, int(summary.truths_ka[:, 0].sum()))
    overall = {name: float(_mean_of_defined([mean[name] for mean in means])) for name in means[0]}
    return Metrics(_plain(overall) | counts, categories, curves)


def _by_category(rows: Rows, categories: int) -> tuple[Rows, list[slice]]:
    """Sort detections (COCO's order: falling score, then image, then rank) or tallies (image); slice by category."""
    keys = [rows["rank"], rows["image"], -rows["score"]] if "score" in (rows.dtype.names or ()) else [rows["image"]]
    ordered = rows[np.lexsort((*keys, rows["category"]))]
    bounds = np.searchsorted(ordered["category"], np.arange(categories + 1))
    return ordered, [slice(*bounds[k : k + 2]) for k in range(categories)]


def _outcomes(detections: Rows, area: int = 0, threshold: int = 0) -> tuple[BoolArray, BoolArray]:
    """Return which detections are true and which false positives; those in neither are ignored."""
    bit = np.uint16(1 << threshold)
    matched_d = detections["matched"][:, area] & bit != 0
    counts_d = detections["ignored"][:, area] & bit == 0
    return matched_d & counts_d, ~matched_d & counts_d


def _coco_numbers(detections: Rows, truths_a: IntArray) -> tuple[dict[str, float], FloatArray]:
    """Return one category's twelve numbers (NaN: no truth) and its precision at IoU 0.5 over RECALLS."""
    best = detections[detections["rank"] < MAX_DETECTIONS]
    precision_atr = np.full((len(AREA_RANGES_PX), len(IOU_THRESHOLDS), len(RECALLS)), np.nan)
    for area, threshold in np.ndindex(*precision_atr.shape[:2]):
        if truths_a[area]:
            outcomes = _outcomes(best, area, threshold)
            precision_atr[area, threshold] = precision_at_recalls(*outcomes, float(truths_a[area]))
    ap = {"map": precision_atr[0], "ap50": precision_atr[0, 0], "ap75": precision_atr[0, 5]}
    ap |= {f"ap_{size}": precision_atr[area] for area, size in enumerate(SIZES, 1)}
    ar = {f"ar{limit}": _recalls(best[best["rank"] < limit], truths_a, 0) for limit in (1, 10, MAX_DETECTIONS)}
    ar |= {f"ar_{size}": _recalls(best, truths_a, area) for area, size in enumerate(SIZES, 1)}
    return {name: float(np.mean(value)) for name, value in (ap | ar).items()}, precision_atr[0, 0]


def _recalls(detections: Rows, truths_a: IntArray, area: int) -> FloatArray:
    """Return the recall of these detections at each IoU threshold."""
    true_t = [np.count_nonzero(_outcomes(detections, area, threshold)[0]) for threshold in range(len(IOU_THRESHOLDS))]
    return np.array([_ratio(int(true), int(truths_a[area])) for true in true_t])


def precision_at_recalls(true_d: BoolArray | FloatArray, false_d: BoolArray | FloatArray, truths: float) -> FloatArray:
    """Return the interpolated precision at each of RECALLS, 0 where recall is not reached (COCOeval.accumulate).

    Args:
        true_d: How often each detection, by falling score, counts as a true positive.
        false_d: The same as a false positive.
        truths: Number of truth instances, above 0.
    """
    true_sums, false_sums = np.cumsum(true_d, dtype=np.float64), np.cumsum(false_d, dtype=np.float64)
    precision_d = true_sums / (false_sums + true_sums + np.spacing(1))
    envelope_d = np.maximum.accumulate(precision_d[::-1])[::-1]
    places_r = np.searchsorted(true_sums / truths, RECALLS, side="left")
    reached_r = places_r < len(envelope_d)
    precision_r = np.zeros(len(RECALLS))
    precision_r[reached_r] = envelope_d[places_r[reached_r]]
    return precision_r


def _region_numbers(tallies: Rows) -> dict[str, float]:
    held = tallies[tallies["truth_px"] > 0]
    return {
        "miou": _ratio(held["intersection"].sum(), held["union"].sum()),
        "miou_all_images": _ratio(held["intersection"].sum(), tallies["union"].sum()),
        "macc": _ratio(held["intersection"].sum(), held["truth_px"].sum()),
        "boundary_iou": float(_mean_of_defined(held["boundary_iou"])),
    }


def _count_numbers(summary: ShardSummary, detections: Rows, tallies: Rows, truths: int) -> dict[str, Number]:
    at_threshold = [int(tallies[name].sum()) for name in ("tp", "fp", "fn")]
    threshold, *best = _best_f1(detections, truths)
    numbers: dict[str, Number] = {"iou_threshold": float(IOU_THRESHOLDS[0]), "score_threshold": summary.score_threshold}
    numbers |= _count_ratios(*at_threshold) | {"best_score_threshold": threshold}
    return numbers | {f"best_{name}": value for name, value in _count_ratios(*best).items()}


def _count_ratios(tp: int, fp: int, fn: int) -> dict[str, Number]:
    ratios = {"precision": _ratio(tp, tp + fp), "recall": _ratio(tp, tp + fn), "f1": _ratio(2 * tp, 2 * tp + fp + fn)}
    return {"tp": tp, "fp": fp, "fn": fn, **_plain(ratios)}


def _best_f1(detections: Rows, truths: int) -> tuple[float | None, int, int, int]:
    """Return the score threshold of highest F1 and its TP, FP and FN; detections come by falling score."""
    true_sums, false_sums = (np.cumsum(outcome_d, dtype=np.int64) for outcome_d in _outcomes(detections))
    if len(detections) == 0 or true_sums[-1] == 0:
        return None, 0, 0, truths
    scores_d = detections["score"]
    ends = np.append(np.flatnonzero(np.diff(scores_d)), len(scores_d) - 1)  # a threshold takes all of equal score
    f1 = 2 * true_sums[ends] / (true_sums[ends] + false_sums[ends] + truths)
    best = ends[np.argmax(f1)]
    tp = int(true_sums[best])
    return float(scores_d[best]), tp, int(false_sums[best]), truths - tp


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def _mean_of_defined(values: Sequence[float] | FloatArray) -> FloatArray:
    """Return the mean over the first axis of what is not NaN, NaN where nothing is."""
    array = np.asarray(values, dtype=np.float64)
    defined = ~np.isnan(array)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(defined, array, 0).sum(axis=0) / defined.sum(axis=0))


def _plain(numbers: dict[str, float]) -> dict[str, Number]:
    return {name: None if np.isnan(value) else value for name, value in numbers.items()}


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
        method: Its summary of all images.
        baseline: That of the other method: the same images, categories and truth.
        statistic: As in `accumulate`; `ap50` keeps copies of an image together among equal scores.
        category: One category; None for the overall figure.
        resamples: At least 1; AP50 takes fewer, down to 100, where detections times resamples would exceed AP_WORK.
        seed: Of the generator; the result depends on nothing else but the images.

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
    tallies, slices = _by_category(summary.tallies, len(summary.categories))
    parts = [tallies[slices[k]] for k in chosen]
    if statistic == "ap50":
        detections, slices = _by_category(summary.detections, len(summary.categories))
        estimators = [_ap50(images, detections[slices[k]], part) for k, part in zip(chosen, parts, strict=True)]
    else:
        groups = parts if statistic == "miou" else [np.concatenate(parts)]
        estimators = [_ratio_of_sums(images, rows, statistic) for rows in groups]
    return lambda counts_bn: _mean_of_defined(np.stack([estimate(counts_bn) for estimate in estimators]))


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
    true_d, false_d = _outcomes(detections)
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
