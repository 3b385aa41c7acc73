"""Label a bucket: one reference photo and mask per category in, Parquet predictions for every photo out."""

import time
from typing import Any

from ray.data import ActorPoolStrategy, Dataset

from persam_ray import cluster, run_directory
from persam_ray.checkpoints import locate
from persam_ray.command_line import run_job
from persam_ray.config import LabelConfig
from persam_ray.datasets import open_dataset
from persam_ray.evaluation_merge import Metrics
from persam_ray.judging import metrics_of
from persam_ray.progress import clock, console, show_progress
from persam_ray.references import load_references
from persam_ray.run_directory import Counts
from persam_ray.stages import DecodeImages, SegmentOptions, SegmentWithPersam, WritePredictions
from persam_ray.storage import join, write_json

ROWS_PER_CALL = 16  # of the segment stage; Ray wants a number where there is a GPU
ROWS_PER_FILE = 1024


def label(config: LabelConfig) -> None:
    """Run the job: check everything that can be checked, load the model, label, add up, and say that it is complete."""
    clocks = {"start": time.perf_counter()}
    dataset = open_dataset(config.images, config.format, config.annotations)
    references = load_references(config)
    output = run_directory.prepare(config.output, config.inputs, overwrite=config.overwrite)
    checkpoint_uri = locate(config.sam)
    with cluster.session():
        plan = cluster.plan_workers(cluster.nodes(), config.actors)
        images = cluster.count_images(dataset, plan)
        clocks["listed"] = time.perf_counter()

        checkpoint, fingerprint, image_size_px = cluster.load_checkpoint(checkpoint_uri)
        options = segment_options(config, plan)
        targets = cluster.make_targets(checkpoint, references.by_category, options, config.method, plan)
        clocks["prepared"] = time.perf_counter()

        counter = cluster.start_counter()
        summaries = chain(
            cluster.read_rows(dataset, plan),
            DecodeImages(image_size_px),
            (cluster.fetcher(checkpoint, targets), options, cluster.report_to(counter)),
            WritePredictions(join(output, "predictions"), tuple(references.by_category), references.image_ids),
            plan,
        )
        with show_progress("labeling", images, lambda: cluster.read_counter(counter)[:2]):
            counts, judged = run_directory.add_up(summaries.iter_rows())
        clocks["labeled"] = time.perf_counter()
        _, _, busy_s = cluster.read_counter(counter)

    run_directory.check_complete(counts, images)
    metrics = metrics_of(judged) if judged else None
    if metrics:
        write_json(join(output, "metrics.json"), metrics.as_dict())
    fingerprints = {"sam": {"fingerprint": fingerprint}, "references": references.fingerprints()}
    seconds = seconds_by_step(clocks) | {f"busy_{step}": spent_s for step, spent_s in busy_s.items()}
    run_directory.write_manifest(output, config.as_dict(), fingerprints, counts, seconds)
    summarize(output, counts, metrics, seconds["label"])


def chain(
    rows: Dataset, decode: DecodeImages, model: tuple[Any, ...], write: WritePredictions, plan: cluster.WorkerPlan
) -> Dataset:
    """Lay out the way of the data: rows -> pixels -> predictions -> files, of which summaries come back."""
    tasks: dict[str, Any] = {"batch_format": "pyarrow", "num_cpus": plan.task_cpus}
    summaries: Dataset = (
        rows.map_batches(decode, batch_size=ROWS_PER_CALL, **tasks)
        .map_batches(
            SegmentWithPersam,
            fn_constructor_args=model,
            compute=ActorPoolStrategy(size=plan.actors),
            batch_size=ROWS_PER_CALL,
            batch_format="pyarrow",
            num_cpus=plan.actor_cpus,
            num_gpus=plan.actor_gpus,
        )
        .map_batches(write, batch_size=ROWS_PER_FILE, **tasks)
    )
    return summaries


def seconds_by_step(clocks: dict[str, float]) -> dict[str, float]:
    """Return the wall-clock time of each step."""
    return {
        "list": clocks["listed"] - clocks["start"],
        "prepare": clocks["prepared"] - clocks["listed"],
        "label": clocks["labeled"] - clocks["prepared"],
    }


def segment_options(config: LabelConfig, plan: cluster.WorkerPlan) -> SegmentOptions:
    """Combine what the user asked for with what the cluster has."""
    return SegmentOptions(
        device=plan.device,
        threads=plan.threads,
        batch_size=config.batch_size or (8 if plan.device == "cuda" else 1),
        precision=config.precision,
        guidance=config.guidance,
        min_area_fraction=config.min_area_fraction,
    )


def summarize(output: str, counts: Counts, metrics: Metrics | None, label_s: float) -> None:
    """Close with a few lines: what was done, how well, where it lies."""
    console.print(
        f"{counts.images} images in {clock(label_s)} ({counts.images / label_s:.1f} images/s): {counts.ok} ok with "
        f"{counts.instances} instances, {counts.failed} failed"
    )
    for category, values in metrics.categories.items() if metrics else ():
        if values["miou"] is not None:
            console.print(f"{category}: mIoU {values['miou']:.3f}, AP50 {values['ap50']:.3f}")
    console.print(f"results: {output}")


if __name__ == "__main__":
    run_job(label, LabelConfig)
