"""Label a bucket: one reference photo and mask per category in, Parquet predictions for every photo out."""

from functools import partial

from persam_ray.cli.demo import draw_photos
from persam_ray.cluster import models
from persam_ray.cluster.labeling import ModelActors
from persam_ray.cluster.labeling_run import Model, label_dataset
from persam_ray.cluster.plan import WorkerPlan
from persam_ray.cluster.references import ReferenceSet, load_references
from persam_ray.data.dataset import tell_ignored
from persam_ray.data.listing import open_dataset
from persam_ray.data.weights import locate
from persam_ray.options.label import LabelConfig
from persam_ray.stages.feature_cache import FeatureCache, open_cache
from persam_ray.stages.judge import JudgeOptions


def label(config: LabelConfig) -> int:
    """Run the job: check options, photos and references first, then label each photo that has no row yet."""
    if config.demo:
        draw_photos(config.images)
    dataset = open_dataset(config.images, config.format, config.annotations)
    tell_ignored(dataset)
    references = load_references(config)
    cache = open_cache(config.feature_cache, config.feature_cache_gb)
    load = partial(load_sam, config, references, cache, locate(config.sam))
    return label_dataset(config, dataset, config.inputs, load)


def load_sam(
    config: LabelConfig, references: ReferenceSet, cache: FeatureCache | None, checkpoint_uri: str, plan: WorkerPlan
) -> Model:
    """Load SAM. The references are encoded only if there is a photo to label."""
    sam = models.load_checkpoint(checkpoint_uri)
    options = models.sam_options(plan, config.precision, config.guidance, config.batch_size, cache)

    def make() -> ModelActors:
        made = models.make_targets(sam, references.by_category, options, config.method, plan)
        return models.sam_actors(sam, {config.method: made}, options)

    categories = tuple(references.by_category)
    fingerprints = {"sam": {"fingerprint": sam.fingerprint}, "references": references.fingerprints()}
    identity = {
        "--sam": sam.fingerprint,
        "categories": categories,
        "references": fingerprints["references"],
        "--reference-ids": sorted(references.image_ids),
        "--method": config.method,
        "--guidance": config.guidance,
        "--precision": config.precision,
    }
    fingerprints |= {"categories": categories}
    judge, cache_uri = JudgeOptions(categories), None if cache is None else cache.uri
    return Model(make, config.method, judge, fingerprints, identity, references.image_ids, cache_uri)
