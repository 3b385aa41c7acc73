"""Train Mask R-CNN on a few annotated photos, on Ray Train: weights, history and checkpoints out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from persam_ray.benchmark.split import check_categories, check_ids, draw_training_images, list_annotated
from persam_ray.cluster.plan import nodes, plan_workers
from persam_ray.cluster.reading import count_images
from persam_ray.cluster.session import session
from persam_ray.console import clock, console
from persam_ray.data.dataset import Dataset
from persam_ray.data.listing import open_dataset
from persam_ray.data.weights import check_start
from persam_ray.options.base import split_ids
from persam_ray.options.train_mask_rcnn import TrainConfig
from persam_ray.runs.directory import prepare_output
from persam_ray.runs.manifest import write_training_manifest

if TYPE_CHECKING:
    from persam_ray.training.mask_rcnn import Fitted


def train(config: TrainConfig) -> None:
    """Run the job: choose the images, check them, train, and print a summary."""
    dataset = open_dataset(config.images, config.format, config.annotations)
    output = prepare_output(config.output, config.inputs, overwrite=config.overwrite)
    check_start(config.start)
    with session():
        from persam_ray.training.mask_rcnn import train_detector

        train_ids = training_images(config, dataset)
        fitted = train_detector(config, config.category, dataset.only(train_ids), output)
    write_training_manifest(output, config.as_dict(), train_ids, vars(fitted.start), fitted.seconds)
    report(fitted, len(train_ids))


def training_images(config: TrainConfig, dataset: Dataset) -> tuple[str, ...]:
    """Return the ids given by `--train-ids`, or as many as `--train-images` asks for, or all images with a category."""
    plan = plan_workers(nodes())
    count_images(dataset, plan)  # no key twice
    annotated = list_annotated(dataset, plan)
    check_categories(config.category, annotated, dataset.uri)
    if config.train_ids:
        check_ids(split_ids(config.train_ids), annotated, dataset.uri)
        return split_ids(config.train_ids)
    if config.train_images:
        return draw_training_images(dataset, annotated, config.category, config.train_images, config.seed, plan)
    return tuple(image_id for image_id, held in sorted(annotated.items()) if not held.isdisjoint(config.category))


def report(fitted: Fitted, images: int) -> None:
    """Print epochs, time, losses and the path of the checkpoint."""
    first, last = fitted.epochs[0], fitted.epochs[-1]
    console.print(
        f"{len(fitted.epochs)} epochs on {images} images in {clock(fitted.seconds)}: loss {first['loss']:.3f} in the "
        f"first, {last['loss']:.3f} in the last"
    )
    console.print(f"results: {fitted.checkpoint}")
