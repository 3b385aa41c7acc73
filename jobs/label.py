"""Label a bucket: one reference photo and mask per category in, Parquet predictions for every photo out."""

import time

from persam_ray import cluster, labeling, run_directory
from persam_ray.checkpoints import locate
from persam_ray.command_line import run_job
from persam_ray.config import LabelConfig
from persam_ray.datasets import open_dataset
from persam_ray.demonstration import draw_photos
from persam_ray.feature_cache import open_cache
from persam_ray.judging import JudgeOptions
from persam_ray.progress import summarize, tell_ignored
from persam_ray.reading import count_images, read_rows
from persam_ray.references import load_references
from persam_ray.stages import Run


def label(config: LabelConfig) -> None:
    """Run the job: check everything that can be checked, load the model, label, add up, and say that it is complete."""
    started_s = time.perf_counter()
    if config.demo:
        draw_photos(config.images)
    dataset = open_dataset(config.images, config.format, config.annotations)
    tell_ignored(dataset)
    references = load_references(config)
    cache = open_cache(config.feature_cache, config.feature_cache_gb)
    output = run_directory.prepare(config.output, config.inputs, overwrite=config.overwrite)
    checkpoint_uri = locate(config.sam)
    with cluster.session():
        plan = cluster.plan_workers(cluster.nodes(), config.actors)
        images = count_images(dataset, plan)
        listed_s = time.perf_counter()

        sam = labeling.load_checkpoint(checkpoint_uri)
        options = labeling.sam_options(plan, config.precision, config.guidance, config.batch_size, cache)
        targets, _ = labeling.make_targets(sam, references.by_category, options, config.method, plan)
        prepared_s = time.perf_counter()

        labeler = labeling.persam_labeler(sam, {config.method: targets}, options)
        judge = JudgeOptions(tuple(references.by_category))
        runs = {"": Run(output, config.method, judge, config.min_area_fraction)}
        labeled = labeling.label_images(read_rows(dataset, plan), images, labeler, runs, plan, references.image_ids)
        outcome = labeled.outcomes[""]
        metrics = outcome.metrics()
        labeling.write_sheet(dataset, runs[""], outcome, metrics, plan)

    fingerprints = {
        "categories": tuple(references.by_category),
        "sam": {"fingerprint": sam.fingerprint},
        "references": references.fingerprints(),
        "feature_cache": vars(labeled.cache_use) if cache else None,
    }
    seconds = {"list": listed_s - started_s, "prepare": prepared_s - listed_s, **labeled.seconds}
    run_directory.finish(output, config.as_dict(), fingerprints, outcome.counts, metrics, seconds)
    if cache:
        labeled.cache_use.tell(cache.uri)
    summarize(output, outcome.counts, metrics, labeled.wall_s)


if __name__ == "__main__":
    run_job(label, LabelConfig)
