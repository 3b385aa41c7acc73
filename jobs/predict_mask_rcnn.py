"""Label a bucket by a trained Mask R-CNN: the same rows out as those of jobs/label.py."""

import time

from persam_ray import cluster, labeling, run_directory
from persam_ray.checkpoints import locate_detector
from persam_ray.command_line import run_job
from persam_ray.datasets import open_dataset
from persam_ray.detector_config import PredictConfig
from persam_ray.judging import JudgeOptions
from persam_ray.model_stages import MASK_RCNN, DetectOptions
from persam_ray.progress import summarize, tell_ignored
from persam_ray.reading import count_images, read_rows
from persam_ray.stages import Run
from persam_ray.types import DetectionLimits


def predict(config: PredictConfig) -> None:
    """Run the job: check what can be checked, load the model, label, add up, and say that it is complete."""
    started_s = time.perf_counter()
    dataset = open_dataset(config.images, config.format, config.annotations)
    tell_ignored(dataset)
    checkpoint_uri = locate_detector(config.checkpoint)
    output = run_directory.prepare(config.output, [*config.inputs, checkpoint_uri], overwrite=config.overwrite)
    with cluster.session():
        plan = cluster.plan_workers(cluster.nodes(), config.actors)
        images = count_images(dataset, plan)
        listed_s = time.perf_counter()

        detector = labeling.load_detector(checkpoint_uri)
        limits = DetectionLimits(config.least_score, config.instances_per_image)
        options = DetectOptions(plan.device, plan.threads, config.precision, limits)
        prepared_s = time.perf_counter()

        judge = JudgeOptions(detector.categories, config.score_threshold)
        runs = {"": Run(output, MASK_RCNN, judge, config.min_area_fraction)}
        labeler = labeling.mask_rcnn_labeler(detector, options)
        labeled = labeling.label_images(read_rows(dataset, plan), images, labeler, runs, plan)
        outcome = labeled.outcomes[""]
        metrics = outcome.metrics()
        labeling.write_sheet(dataset, runs[""], outcome, metrics, plan)

    fingerprints = {"categories": detector.categories, "checkpoint": {"fingerprint": detector.fingerprint}}
    seconds = {"list": listed_s - started_s, "prepare": prepared_s - listed_s, **labeled.seconds}
    run_directory.finish(output, config.as_dict(), fingerprints, outcome.counts, metrics, seconds)
    summarize(output, outcome.counts, metrics, labeled.wall_s)


if __name__ == "__main__":
    run_job(predict, PredictConfig)
