"""Compare predictions with annotated images, joined by key; metrics out."""

import time

from ray.data import Dataset
from rich.table import Table

from persam_ray.cluster.plan import nodes, plan_workers
from persam_ray.cluster.reading import count_images, join_predictions
from persam_ray.cluster.session import session
from persam_ray.console import clock, console, show_table
from persam_ray.data.listing import open_dataset
from persam_ray.data.storage import exists, join, read_json, write_json
from persam_ray.errors import ConfigError
from persam_ray.metrics.scores import Metrics, metrics_of
from persam_ray.options.evaluate import EvaluateConfig
from persam_ray.report.page import figure
from persam_ray.runs.directory import prepare_output
from persam_ray.stages.judge import EvaluationError, JudgeOptions, MatchImages


def evaluate(config: EvaluateConfig) -> None:
    """Run the job: join truth and predictions by key, judge each partition, merge, write metrics."""
    started_s = time.perf_counter()
    dataset = open_dataset(config.images, config.format, config.annotations)
    options = JudgeOptions(
        config.category or run_categories(config.predictions),
        config.score_threshold,
        config.objects,
        config.min_object_fraction,
    )
    folder = join(config.predictions, "predictions")
    predictions = open_dataset(folder if exists(folder) else config.predictions, "parquet")
    output = prepare_output(config.output, [config.images, predictions.uri], overwrite=config.overwrite)
    with session():
        plan = plan_workers(nodes())
        images = count_images(dataset, plan)
        judged: Dataset = join_predictions(dataset, predictions, images, plan).map_batches(
            MatchImages(join(output, "matches"), options, config.predictions, config.images),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=plan.task_cpus,
        )
        rows = list(judged.iter_rows())
    metrics = metrics_of([row["summary"] for row in rows])
    check_truth(metrics, config.images)
    write_json(join(output, "metrics.json"), metrics.as_dict())
    judged_images, unannotated = (sum(row[name] for row in rows) for name in ("judged", "unannotated"))
    console.print(f"{judged_images} images judged, {unannotated} without ground truth left out")
    show_table(metrics_table(metrics))
    console.print(f"results in {clock(time.perf_counter() - started_s)}: {output}")


def run_categories(run: str) -> tuple[str, ...]:
    """Return the categories that a run's manifest names."""
    manifest = join(run, "manifest.json")
    if not exists(manifest):
        raise ConfigError(f"--category is needed: {run} has no manifest.json that would name the categories")
    return tuple(read_json(manifest)["categories"])


def check_truth(metrics: Metrics, images: str) -> None:
    """Raise EvaluationError if the ground truth has no object of a category: its metrics would mean nothing."""
    for category, values in metrics.categories.items():
        if not (values["tp"] or values["fn"]):
            raise EvaluationError(f"{images}: no annotated image holds the category {category!r}")


def metrics_table(metrics: Metrics) -> Table:
    """Lay out the main figures, a row for each category and one for all."""
    columns = ("map", "ap50", "miou", "tp", "fp", "fn", "precision", "recall", "f1")
    table = Table("category", *columns, box=None, padding=(0, 2, 0, 0))
    rows = {**metrics.categories, "overall": metrics.overall} if len(metrics.categories) > 1 else metrics.categories
    for name, values in rows.items():
        table.add_row(name, *(figure(values[column]) for column in columns))
    return table
