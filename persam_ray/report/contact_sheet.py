"""The contact sheet, the page of a labeling run: photos with their masks, the lowest scores first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from persam_ray.data.dataset import Dataset
from persam_ray.data.rows import PredictionRow, labeled_size_hw
from persam_ray.metrics.scores import Metrics
from persam_ray.report.gallery import Shot, Thumbnail, outline, read_photos, sample_run
from persam_ray.report.page import Cell, FigureRow, FigureTable, Gallery, Group, Page, figure, write_page

LOWEST_PHOTOS = 96
TAR_PHOTOS = 12
"""How many photos of the lowest scores are shown: of loose files and Parquet shards, and of tars, which are read whole
for a photo."""


def write_contact_sheet(
    output: str,
    dataset: Dataset,
    categories: Sequence[str],
    counts: Mapping[str, int],
    metrics: Metrics | None,
    score_threshold: float = 0.0,
) -> str:
    """Write the page of a labeling run: photos with their masks, those of the lowest scores first.

    Args:
        output: The run directory, with its predictions.
        dataset: The photos.
        categories: What was labeled.
        counts: Images, ok, failed, instances.
        metrics: Where there is ground truth.
        score_threshold: Instances under it are not shown.

    Returns:
        The page's URI.
    """
    in_tars = dataset.format == "webdataset"
    sample = sample_run(output, TAR_PHOTOS if in_tars else LOWEST_PHOTOS, TAR_PHOTOS, score_threshold)
    photos = read_photos(dataset, [row["image_id"] for row in (*sample.lowest, *sample.empty)])
    lowest, empty = (
        tuple(_contact(row, photos[row["image_id"]].thumbnail) for row in rows if row["image_id"] in photos)
        for rows in (sample.lowest, sample.empty)
    )
    names = ", ".join(categories)
    page = Page(
        title=f"Labels: {names}",
        lead=[
            f"{counts['instances']} instances of {names} were found in {counts['ok']} photos; {counts['failed']} "
            "photos could not be used.",
            "Below are the photos with the lowest scores: if these are good enough, the others are.",
        ],
        facts=[(name, str(counts[name])) for name in ("images", "ok", "failed", "instances")],
        table=_category_table(metrics) if metrics else None,
        galleries=[
            Gallery(
                "What was found",
                f"Instances of scores of at least {score_threshold:g}." if score_threshold else "",
                (Group("Lowest scores first", lowest), Group("Photos in which nothing was found, the first", empty)),
            )
        ],
        reasons=[f"{row['image_id']}: {row['error']}" for row in sample.failed],
    )
    return write_page(output, page)


def _contact(row: PredictionRow, thumbnail: Thumbnail) -> Shot:
    found = sorted(row["instances"], key=lambda instance: instance["score"])
    caption = [f"{instance['category']} {instance['score']:.3f}" for instance in found[:5]]
    masks = outline([instance["rle"] for instance in found], labeled_size_hw(row), thumbnail)
    return Shot(thumbnail, row["image_id"], "", masks, (*caption, row["image_id"]))


def _category_table(metrics: Metrics) -> FigureTable:
    columns = {"mAP": "map", "AP50": "ap50", "mIoU": "miou", "TP": "tp", "FP": "fp", "FN": "fn"}
    rows = tuple(
        FigureRow(category, tuple(Cell(figure(values[name])) for name in columns.values()))
        for category, values in metrics.categories.items()
    )
    return FigureTable("Category", tuple(columns), rows, ("Against the ground truth of the photos that have it.",))
