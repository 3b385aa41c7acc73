"""The methods that the benchmark compares: each from its labels to its run directories and results.

A method that fails becomes results that say why; the others are not touched by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from persam_ray.benchmark.rows import RUNS, AnyResult, FailedMethod, MethodResult, result_of, title_of
from persam_ray.benchmark.split import Split
from persam_ray.cluster import labeling, models
from persam_ray.cluster.labeling import Labeled, ModelActors
from persam_ray.cluster.plan import WorkerPlan
from persam_ray.cluster.reading import read_rows
from persam_ray.cluster.session import cause_of
from persam_ray.console import console
from persam_ray.data.dataset import Dataset
from persam_ray.data.storage import join
from persam_ray.errors import error_line
from persam_ray.methods.registry import FILTERED, MASK_RCNN, SAM_METHODS, MethodName
from persam_ray.options.benchmark import BenchmarkConfig
from persam_ray.runs.manifest import finish_run, write_training_manifest
from persam_ray.stages.detect import DetectOptions
from persam_ray.stages.judge import JudgeOptions
from persam_ray.stages.write import Run
from persam_ray.types import DetectionLimits, Reference


@dataclass(frozen=True)
class Contest:
    """What all methods share.

    Attributes:
        config: The user's options.
        dataset: All images.
        split: Which of them are trained on and which judged.
        reference: The training image that PerSAM is given: its id, photo and mask.
        output: URI below which each row has its run directory.
        plan: How to share out the cluster.
    """

    config: BenchmarkConfig
    dataset: Dataset
    split: Split
    reference: tuple[str, Reference]
    output: str
    plan: WorkerPlan

    def label(self, actors: ModelActors, runs: Mapping[str, Run]) -> Labeled:
        """Label the test images."""
        rows = read_rows(self.dataset.only(self.split.test_ids), self.plan)
        return labeling.label_images(rows, len(self.split.test_ids), actors, runs, self.plan)

    def runs(self, method: str) -> dict[str, Run]:
        """Return a method's runs: all of its masks, and where the table has such a row, those without small parts."""
        threshold = self.config.detector_score_threshold if method == MASK_RCNN else self.config.sam_score_threshold
        judge = JudgeOptions((self.config.category,), threshold, self.config.objects)
        return {
            name: Run(join(self.output, name), method, judge, self.config.min_area_fraction if is_filtered else 0.0)
            for name in RUNS
            for is_filtered in [name.endswith(FILTERED)]
            if name.removesuffix(FILTERED) == method
        }

    def all_runs(self) -> dict[str, Run]:
        """Return the runs of all methods, in the order of RUNS."""
        runs = self.runs(MASK_RCNN)
        for method in SAM_METHODS:
            runs |= self.runs(method)
        return {name: runs[name] for name in RUNS}

    def finish(self, labeled: Labeled, result: MethodResult, fingerprints: Mapping[str, object]) -> MethodResult:
        """Complete a result's run directory."""
        common: dict[str, object] = {"categories": (self.config.category,)}
        finish_run(
            join(self.output, result.run),
            self.config.as_dict(),
            common | dict(fingerprints),
            labeled.outcomes[result.run].counts,
            result.metrics,
            {"train": result.training_s, **labeled.seconds(result.run)},
        )
        return result


def run_mask_rcnn(contest: Contest) -> list[AnyResult]:
    """Train Mask R-CNN and label by it."""
    from persam_ray.training.mask_rcnn import train_detector

    config, plan, train_ids = contest.config, contest.plan, contest.split.train_ids
    results: list[AnyResult] = []
    runs = contest.runs(MASK_RCNN)
    with _guarded(results, runs):
        folder = join(contest.output, "training")
        fitted = train_detector(config, (config.category,), contest.dataset.only(train_ids), folder)
        write_training_manifest(folder, config.as_dict(), train_ids, vars(fitted.start), fitted.seconds)
        detector = models.load_detector(fitted.checkpoint)
        options = DetectOptions(plan.device, plan.threads, config.precision, DetectionLimits())
        labeled = contest.label(models.mask_rcnn_actors(detector, options), runs)
        fingerprints = {"checkpoint": {"fingerprint": detector.fingerprint}}
        for name in runs:
            result = result_of(name, MASK_RCNN, labeled, len(train_ids), fitted.seconds, plan.actors)
            results.append(contest.finish(labeled, result, fingerprints))
    return results


def run_persam(contest: Contest, sam_uri: str) -> list[AnyResult]:
    """Label by PerSAM and PerSAM-F in one pass, in which each image is encoded once."""
    config, plan = contest.config, contest.plan
    results: list[AnyResult] = []
    runs = {method: contest.runs(method) for method in SAM_METHODS}
    with _guarded(results, [name for own in runs.values() for name in own]):
        sam = models.load_checkpoint(sam_uri)
        options = models.sam_options(plan, config.precision, config.guidance)
        references = {config.category: [contest.reference[1]]}
        made: dict[MethodName, models.MadeTargets] = {}
        training_s: dict[str, float] = {}
        for method in SAM_METHODS:
            with _guarded(results, runs[method]):
                own = models.make_targets(sam, references, options, method, plan)
                training_s[method] = own.wait()
                made[method] = own
        if not made:
            return results
        actors = models.sam_actors(sam, made, options)
        wanted = {name: run for method in made for name, run in runs[method].items()}
        labeled = contest.label(actors, wanted)
        fingerprints = {"sam": {"fingerprint": sam.fingerprint}, "reference": contest.reference[0]}
        for name, run in wanted.items():
            result = result_of(name, run.method, labeled, 1, training_s[run.method], plan.actors)
            results.append(contest.finish(labeled, result, fingerprints))
    return results


@contextmanager
def _guarded(results: list[AnyResult], runs: Iterable[str]) -> Iterator[None]:
    """Turn what goes wrong into results that say so, for those of the runs that have none yet."""
    try:
        yield
    except Exception as error:
        message = error_line(cause_of(error))
        done = {result.run for result in results}
        results.extend(FailedMethod(run, message) for run in runs if run not in done)
        console.print(f"{', '.join(title_of(run) for run in runs)}: failed: {message}")
