"""The benchmark's page: the table, the curves, every method's hits and misses, the same photos by every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from persam_ray.data.annotations import category_mask
from persam_ray.data.dataset import Dataset
from persam_ray.data.rows import ImageRow, MatchKind, MatchRow, PredictionRow, labeled_size_hw
from persam_ray.masks import decode_rle
from persam_ray.methods.registry import SAM_METHODS
from persam_ray.report.charts import Curve, Histogram
from persam_ray.report.gallery import PagePhoto, Shot, outline, outline_of, predictions_of, read_photos, worst_matches
from persam_ray.report.page import Cell, FigureRow, FigureTable, Gallery, Group, Page, figure, pace, write_page
from persam_ray.report.results import BenchmarkResults, DifferenceFigures, FigureName, MethodFigures
from persam_ray.stages.judge import JudgeOptions, image_pair
from persam_ray.types import BoolArray

SHOTS_PER_GROUP = 8
COMPARED_PHOTOS = 6

KINDS: dict[MatchKind, str] = {
    "tp": "True positives, loosest first",
    "fp": "False positives, surest first",
    "fn": "False negatives, largest first",
}

LOOKED_AT = 200
"""Test images among which those that are shown side by side are sought."""


@dataclass(frozen=True)
class MethodCharts:
    """What a method's summary shows, small enough to travel to the task that builds the page."""

    curve: Curve | None
    histogram: Histogram


@dataclass(frozen=True)
class MethodRun:
    """A method whose pictures are shown.

    Attributes:
        title: Its name for people.
        folder: URI of its run directory.
        judge: How it was judged.
    """

    title: str
    folder: str
    judge: JudgeOptions


def write_benchmark_report(
    output: str,
    dataset: Dataset,
    results: BenchmarkResults,
    runs: Sequence[MethodRun],
    charts: Sequence[MethodCharts],
) -> str:
    """Write the page above the rows' run directories.

    Args:
        output: URI of the benchmark.
        dataset: The test images.
        results: The content of benchmark.json.
        runs: The methods that did not fail, in the order of the rows.
        charts: Their curves and histograms.

    Returns:
        The page's URI.
    """
    category, test_ids = results["category"], results["test_ids"]
    matches = {run.folder: worst_matches(run.folder, category, SHOTS_PER_GROUP) for run in runs}
    compared = _to_compare(dataset, test_ids[:LOOKED_AT], runs, category)
    shown = {match["image_id"] for by_kind in matches.values() for group in by_kind.values() for match in group}
    shown.update(compared)
    photos = read_photos(dataset, shown) if shown else {}
    found = {run.folder: predictions_of(run.folder, photos) for run in runs}
    page = Page(
        title=f"Labeling “{category}”: which method, with how few labels?",
        lead=_lead(results),
        facts=_facts(results),
        table=_table(results),
        curves=[chart.curve for chart in charts if chart.curve],
        histograms=[chart.histogram for chart in charts],
        comparison=[
            _side_by_side(photos[image_id], [(run, found[run.folder][image_id]) for run in runs], category)
            for image_id in compared
            if image_id in photos
        ],
        comparison_note="The first test photos, in the order in which they were drawn, that hold the category: nobody "
        "chose them.",
        galleries=[_gallery(run, matches[run.folder], found[run.folder], photos) for run in runs],
        has_truth=True,
    )
    return write_page(output, page)


# --- pictures --------------------------------------------------------------------------------------------------------


def _to_compare(dataset: Dataset, image_ids: Sequence[str], runs: Sequence[MethodRun], category: str) -> list[str]:
    """Return the first few of some images, in their order, that every run could use and that hold a category."""
    usable = set(image_ids)
    for run in runs:
        usable &= {name for name, row in predictions_of(run.folder, usable).items() if row["status"] == "ok"}
    if not runs or not usable:
        return []
    shards = dataset.only(usable).shards
    rows: list[ImageRow] = [row for shard in shards for table in shard.read(pixels=False) for row in table.to_pylist()]
    objects = ((row["image_id"], item) for row in rows for item in row["annotations"] or ())
    holders = {name for name, item in objects if item["category"] == category and not item["iscrowd"]}
    return [image_id for image_id in image_ids if image_id in holders][:COMPARED_PHOTOS]


def _side_by_side(photo: PagePhoto, runs: Sequence[tuple[MethodRun, PredictionRow]], category: str) -> list[Shot]:
    """Return one photo with its truth, and with what each method found in it."""
    truth_hw = category_mask(photo.annotations or (), category, labeled_size_hw(runs[0][1]))
    truth = outline_of(truth_hw, photo.thumbnail)
    shots = [Shot(photo.thumbnail, photo.image_id, truth, "", ("Ground truth", photo.image_id))]
    for run, prediction in runs:
        found_hw = _union(prediction, run.judge)
        iou = float((found_hw & truth_hw).sum() / max(1, (found_hw | truth_hw).sum()))
        caption = (run.title, f"IoU {iou:.2f}" if found_hw.any() else "nothing found")
        found = outline_of(found_hw, photo.thumbnail)
        shots.append(Shot(photo.thumbnail, photo.image_id, truth, found, caption))
    return shots


def _union(prediction: PredictionRow, judge: JudgeOptions) -> BoolArray:
    size_hw = labeled_size_hw(prediction)
    union_hw = np.zeros(size_hw, dtype=np.bool_)
    for instance in prediction["instances"]:
        if instance["category"] in judge.categories and instance["score"] >= judge.score_threshold:
            union_hw |= decode_rle(instance["rle"], size_hw)
    return union_hw


def _gallery(
    run: MethodRun,
    matches: Mapping[MatchKind, Sequence[MatchRow]],
    found: Mapping[str, PredictionRow],
    photos: Mapping[str, PagePhoto],
) -> Gallery:
    groups = tuple(
        Group(
            title,
            tuple(
                _match_shot(match, found[match["image_id"]], photos[match["image_id"]], run.judge)
                for match in matches[kind]
                if match["image_id"] in photos
            ),
        )
        for kind, title in KINDS.items()
    )
    note = f"At IoU 0.5 and scores of at least {run.judge.score_threshold:g}; one object of a photo at most."
    return Gallery(run.title, note, groups)


def _match_shot(match: MatchRow, prediction: PredictionRow, photo: PagePhoto, judge: JudgeOptions) -> Shot:
    """Draw the objects of a match; beside a false positive all truths, beside a false negative all predictions."""
    size_hw = labeled_size_hw(prediction)
    pair = image_pair({**prediction, "annotations": photo.annotations}, judge)
    truths = [truth.rle for truth in pair.truths if not truth.iscrowd]
    found = [one.rle for one in pair.predictions if one.score >= judge.score_threshold]
    if match["truth"] is not None:
        truths = [pair.truths[match["truth"]].rle]
    if match["prediction"] is not None:
        found = [pair.predictions[match["prediction"]].rle]
    iou = "IoU" if match["kind"] == "tp" else "best IoU"
    facts = [f"{iou} {match['iou']:.2f}", f"{match['area'] / (size_hw[0] * size_hw[1]):.1%} of the image"]
    if match["score"] is not None:
        facts.insert(0, f"score {match['score']:.2f}")
    truth, outlined = (outline(rles, size_hw, photo.thumbnail) for rles in (truths, found))
    return Shot(photo.thumbnail, match["image_id"], truth, outlined, (", ".join(facts), match["image_id"]))


# --- words and figures -----------------------------------------------------------------------------------------------


def _lead(results: BenchmarkResults) -> list[str]:
    rows = [row for row in results["rows"] if not row["error"]]
    if not rows:
        return ["Every method failed; the table says why."]
    best = max(rows, key=lambda row: float(row["ap50"] or 0))
    found = f"{best['recall'] or 0:.0%} of the objects; of what it reports, {best['precision'] or 0:.0%} is right"
    lead = [f"Best here, by AP50: {best['method']}, given {_labels(best)}. It finds {found} (at IoU 0.5)."]
    first = results["rows"][0]
    for row in rows:
        interval = _interval(row, "ap50")
        if row["run"] in SAM_METHODS and interval:
            lead.append(_comparison(row, first, interval))
    return lead


@dataclass(frozen=True)
class Interval:
    """A difference to the first method, and its 95% interval."""

    difference: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_signed(self.low)} to {_signed(self.high)}"


def _interval(row: MethodFigures, statistic: str) -> Interval | None:
    """Return how a method differs from the first; None where nobody can say."""
    found: DifferenceFigures | None = (row["difference_to_first"] or {}).get(statistic)
    if found is None or found["difference"] is None or found["low"] is None or found["high"] is None:
        return None
    return Interval(found["difference"], found["low"], found["high"])


def _comparison(row: MethodFigures, first: MethodFigures, interval: Interval) -> str:
    sure = interval.low > 0 or interval.high < 0
    better = "better" if interval.difference > 0 else "worse"
    verdict = f"is {better} than" if sure else "cannot be told apart from"
    return (
        f"{row['method']}, given {_labels(row)}, {verdict} {first['method']}, given {_labels(first)}: AP50 "
        f"{row['ap50']:.3f} against {first['ap50']:.3f} (95% interval of the difference: {interval})."
    )


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"  # adding 0 turns -0 into 0


def _labels(row: MethodFigures) -> str:
    return "one label" if row["labels"] == 1 else f"{row['labels']} labels"


def _facts(results: BenchmarkResults) -> list[tuple[str, str]]:
    failures = {row["failed"] for row in results["rows"] if row["failed"]}
    objects = {"component": "each connected part of a mask", "mask": "each mask"}[results["objects"]]
    return [
        ("category", results["category"]),
        ("training photos", str(results["train_images"])),
        ("test photos", f"{results['test_images']}, {results['test_images_with_category']} with the category"),
        *[("photos that could not be used", str(failed)) for failed in sorted(failures)],
        ("an object is", objects),
        (
            "small objects are",
            f"connected parts under {100 * results['min_area_fraction']:.3g}% of the image",
        ),
        ("reference of PerSAM", results["reference_id"]),
        ("seed", str(results["seed"])),
    ]


COLUMNS: dict[str, FigureName] = {
    "labels": "labels", "mAP": "map", "AP50": "ap50", "AP75": "ap75", "TP": "tp", "FP": "fp", "FN": "fn",
    "precision": "precision", "recall": "recall", "mIoU": "miou", "training s": "training_s",
    "images/s": "images_per_s",
}  # fmt: skip
RANKED: tuple[FigureName, ...] = ("map", "ap50", "ap75", "precision", "recall", "miou")


def _table(results: BenchmarkResults) -> FigureTable:
    rows = results["rows"]
    best = {name: max((row[name] or 0.0 for row in rows if not row["error"]), default=None) for name in RANKED}
    thresholds = ", ".join(f"{row['method']} {row['score_threshold']:g}" for row in rows if not row["error"])
    notes = (
        "mAP is COCO's (IoU 0.5 to 0.95), over all scores. TP, FP, FN, precision and recall are at IoU 0.5 and "
        f"count predictions of at least this score: {thresholds}. mIoU is the PerSAM paper's: summed intersection "
        "over summed union, over the photos that hold the category.",
        "Small figures: the difference to the first row, and its 95% interval by the paired bootstrap over photos. "
        "Training s: of Mask R-CNN from the start of its workers to its weights, of PerSAM what encoding and "
        "fitting the reference took. Images/s is the model's own pace, without reading and decoding.",
    )
    return FigureTable("Method", tuple(COLUMNS), tuple(_row(row, place, best) for place, row in enumerate(rows)), notes)


def _row(row: MethodFigures, series: int, best: Mapping[FigureName, float | None]) -> FigureRow:
    if row["error"]:
        return FigureRow(row["method"], (), series, row["error"])
    return FigureRow(row["method"], tuple(_cell(row, name, best) for name in COLUMNS.values()), series)


def _cell(row: MethodFigures, name: FigureName, best: Mapping[FigureName, float | None]) -> Cell:
    value = row[name]
    text = pace(value) if name in {"training_s", "images_per_s"} else figure(value)
    interval = _interval(row, name)
    notes = (_signed(interval.difference), str(interval)) if interval else ()
    return Cell(text, notes, best=name in RANKED and bool(value) and value == best[name])
