"""From a merged summary to metrics, in the driver: COCO's twelve numbers, counts, regions.

Everything is ordered by score and by a hash of the image's name before it is summed, so the figures do not depend on
how the images were cut into shards.

Suffixes: a area range, t IoU threshold, d detection (predicted instance), k category, r recall.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from persam_ray.metrics.summary import AREA_RANGES_PX, IOU_THRESHOLDS, FloatArray, IntArray, Rows, ShardSummary, merged
from persam_ray.types import BoolArray

Number = int | float | None

SIZES = ("small", "medium", "large")

RECALLS = np.linspace(0, 1, 101)
MAX_DETECTIONS = 100
"""Average precision and recall look at the 100 best detections of an image and category; the counts at all."""


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
    detections, slices = by_category(summary.detections, len(summary.categories))
    tallies, tally_slices = by_category(summary.tallies, len(summary.categories))
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
    overall = {name: float(mean_of_defined([mean[name] for mean in means])) for name in means[0]}
    return Metrics(_plain(overall) | counts, categories, curves)


def by_category(rows: Rows, categories: int) -> tuple[Rows, list[slice]]:
    """Sort detections (COCO's order: falling score, then image, then rank) or tallies (image); slice by category."""
    keys = [rows["rank"], rows["image"], -rows["score"]] if "score" in (rows.dtype.names or ()) else [rows["image"]]
    ordered = rows[np.lexsort((*keys, rows["category"]))]
    bounds = np.searchsorted(ordered["category"], np.arange(categories + 1))
    return ordered, [slice(*bounds[k : k + 2]) for k in range(categories)]


def true_and_false(detections: Rows, area: int = 0, threshold: int = 0) -> tuple[BoolArray, BoolArray]:
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
            outcomes = true_and_false(best, area, threshold)
            precision_atr[area, threshold] = precision_at_recalls(*outcomes, float(truths_a[area]))
    ap = {"map": precision_atr[0], "ap50": precision_atr[0, 0], "ap75": precision_atr[0, 5]}
    ap |= {f"ap_{size}": precision_atr[area] for area, size in enumerate(SIZES, 1)}
    ar = {f"ar{limit}": _recalls(best[best["rank"] < limit], truths_a, 0) for limit in (1, 10, MAX_DETECTIONS)}
    ar |= {f"ar_{size}": _recalls(best, truths_a, area) for area, size in enumerate(SIZES, 1)}
    return {name: float(np.mean(value)) for name, value in (ap | ar).items()}, precision_atr[0, 0]


def _recalls(detections: Rows, truths_a: IntArray, area: int) -> FloatArray:
    """Return the recall of these detections at each IoU threshold."""
    true_t = [
        np.count_nonzero(true_and_false(detections, area, threshold)[0]) for threshold in range(len(IOU_THRESHOLDS))
    ]
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
        "boundary_iou": float(mean_of_defined(held["boundary_iou"])),
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
    true_sums, false_sums = (np.cumsum(outcome_d, dtype=np.int64) for outcome_d in true_and_false(detections))
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


def mean_of_defined(values: Sequence[float] | FloatArray) -> FloatArray:
    """Return the mean over the first axis, ignoring NaN; NaN where every value is NaN."""
    array = np.asarray(values, dtype=np.float64)
    defined = ~np.isnan(array)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(defined, array, 0).sum(axis=0) / defined.sum(axis=0))


def _plain(numbers: dict[str, float]) -> dict[str, Number]:
    return {name: None if np.isnan(value) else value for name, value in numbers.items()}


def metrics_of(packed: Iterable[bytes]) -> Metrics:
    """Merge the summaries of all shards and compute the metrics."""
    return accumulate(merged(packed))
