"""Label a bucket: one reference photo and mask per category in, Parquet predictions for every photo out."""

from persam_ray import labeling
from persam_ray.checkpoints import locate
from persam_ray.cluster import WorkerPlan
from persam_ray.command_line import run_job
from persam_ray.config import LabelConfig
from persam_ray.datasets import open_dataset
from persam_ray.demonstration import draw_photos
from persam_ray.judging import JudgeOptions
from persam_ray.labeling_run import Model, label_dataset
from persam_ray.progress import tell_ignored
from persam_ray.references import ReferenceSet, load_references


def label(config: LabelConfig) -> int:
    """Run the job: check everything that can be checked, then label what has no row yet."""
    if config.demo:
        draw_photos(config.images)
    dataset = open_dataset(config.images, config.format, config.annotations)
    tell_ignored(dataset)
    references = load_references(config)
    checkpoint_uri = locate(config.sam)
    return label_dataset(config, dataset, config.inputs, lambda plan: load(config, references, checkpoint_uri, plan))


def load(config: LabelConfig, references: ReferenceSet, checkpoint_uri: str, plan: WorkerPlan) -> Model:
    """Load SAM; the references are encoded when there is something to label."""
    sam = labeling.load_checkpoint(checkpoint_uri)
    options = labeling.sam_options(plan, config.precision, config.guidance, config.batch_size)

    def make() -> labeling.Labeler:
        targets, _ = labeling.make_targets(sam, references.by_category, options, config.method, plan)
        return labeling.persam_labeler(sam, {config.method: targets}, options)

    categories = tuple(references.by_category)
    fingerprints = {"sam": {"fingerprint": sam.fingerprint}, "references": references.fingerprints()}
    identity = {
        "--sam": sam.fingerprint,
        "references": fingerprints["references"],
        "--method": config.method,
        "--guidance": config.guidance,
        "--precision": config.precision,
    }
    fingerprints |= {"categories": categories}
    return Model(make, config.method, JudgeOptions(categories), fingerprints, identity, references.image_ids)


if __name__ == "__main__":
    run_job(label, LabelConfig)
