"""Label a bucket with a trained Mask R-CNN; the rows have the format of `persam-ray label`."""

from persam_ray.cluster import models
from persam_ray.cluster.labeling_run import Model, label_dataset
from persam_ray.cluster.plan import WorkerPlan
from persam_ray.data.dataset import tell_ignored
from persam_ray.data.listing import open_dataset
from persam_ray.data.weights import locate_detector
from persam_ray.methods.registry import MASK_RCNN
from persam_ray.options.predict_mask_rcnn import PredictConfig
from persam_ray.stages.detect import DetectOptions
from persam_ray.stages.judge import JudgeOptions
from persam_ray.types import DetectionLimits


def predict(config: PredictConfig) -> int:
    """Run the job: check options and photos first, then label each photo that has no row yet."""
    dataset = open_dataset(config.images, config.format, config.annotations)
    tell_ignored(dataset)
    checkpoint_uri = locate_detector(config.checkpoint)
    inputs = [*config.inputs, checkpoint_uri]
    return label_dataset(config, dataset, inputs, lambda plan: load(config, checkpoint_uri, plan))


def load(config: PredictConfig, checkpoint_uri: str, plan: WorkerPlan) -> Model:
    """Load the detector."""
    detector = models.load_detector(checkpoint_uri)
    limits = DetectionLimits(config.least_score, config.instances_per_image)
    options = DetectOptions(plan.device, plan.threads, config.precision, limits)
    fingerprints = {"categories": detector.categories, "checkpoint": {"fingerprint": detector.fingerprint}}
    identity = {
        "--checkpoint": detector.fingerprint,
        "--least-score": config.least_score,
        "--instances-per-image": config.instances_per_image,
        "--score-threshold": config.score_threshold,
        "--precision": config.precision,
    }
    judge = JudgeOptions(detector.categories, config.score_threshold)
    return Model(lambda: models.mask_rcnn_actors(detector, options), MASK_RCNN, judge, fingerprints, identity)
