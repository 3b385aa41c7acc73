"""The command `persam-ray`, with a subcommand for each job. `python jobs/label.py` is the same as `persam-ray label`.

Help is fast: the overview loads no job, and the help of a subcommand loads its options only. A job, whose libraries
take seconds to load, is loaded after its options are checked.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from persam_ray.cli.pipe import reader_may_leave

if TYPE_CHECKING:
    from persam_ray.options.base import OutputConfig


@dataclass(frozen=True)
class Subcommand:
    """One job.

    Attributes:
        summary: One line for the overview.
        options: Options class, as `module:name` below `persam_ray.options`.
        job: Job function, as `module:name` below `persam_ray.cli`.
    """

    summary: str
    options: str
    job: str

    def load_options(self) -> type[OutputConfig]:
        """Return the options class."""
        module, _, name = self.options.partition(":")
        config_class: type[OutputConfig] = getattr(import_module(f"persam_ray.options.{module}"), name)
        return config_class

    def load_job(self) -> Callable[[OutputConfig], int | None]:
        """Return the job's function, from options to an exit status. Its libraries take seconds to load."""
        module, _, name = self.job.partition(":")
        job: Callable[[OutputConfig], int | None] = getattr(import_module(f"persam_ray.cli.{module}"), name)
        return job


SUBCOMMANDS = {
    "label": Subcommand("label a folder or bucket from reference photos and masks", "label:LabelConfig", "label:label"),
    "evaluate": Subcommand(
        "judge predictions against annotated photos", "evaluate:EvaluateConfig", "evaluate:evaluate"
    ),
    "benchmark": Subcommand(
        "compare Mask R-CNN with PerSAM on annotated photos",
        "benchmark:BenchmarkConfig",
        "benchmark:benchmark",
    ),
    "shard": Subcommand("convert photos of any format to Parquet shards", "shard:ShardConfig", "shard:shard"),
    "train-mask-rcnn": Subcommand(
        "train Mask R-CNN on a few annotated photos", "train_mask_rcnn:TrainConfig", "train_mask_rcnn:train"
    ),
    "predict-mask-rcnn": Subcommand(
        "label a folder or bucket with a trained Mask R-CNN",
        "predict_mask_rcnn:PredictConfig",
        "predict_mask_rcnn:predict",
    ),
    "train-sam": Subcommand(
        "train the small bundled SAM on drawn scenes", "train_sam:TrainSamConfig", "train_sam:train"
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the subcommand named by the first argument, and end the process with its exit status.

    Args:
        arguments: Arguments, subcommand first; None takes those of the command line.
    """
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in {"-h", "--help"}:
        with reader_may_leave():
            sys.stdout.write(overview())
        sys.exit(0)
    if name == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"persam-ray {version('persam-ray')}\n")
        sys.exit(0)
    if name not in SUBCOMMANDS:
        sys.stderr.write(f"error: unknown subcommand {name!r}; allowed are {', '.join(SUBCOMMANDS)}\n")
        sys.exit(2)
    from persam_ray.cli.command_line import run_job

    subcommand = SUBCOMMANDS[name]
    run_job(subcommand.load_options(), subcommand.load_job, rest, f"persam-ray {name}")


def overview() -> str:
    """Return what `persam-ray --help` prints."""
    width = max(map(len, SUBCOMMANDS))
    lines = [f"  {name:{width}}  {subcommand.summary}" for name, subcommand in SUBCOMMANDS.items()]
    return "\n".join(
        [
            "usage: persam-ray SUBCOMMAND [OPTIONS]",
            "",
            "Label a bucket of photos from one reference photo and mask.",
            "",
            *lines,
            "",
            "`persam-ray SUBCOMMAND --help` explains its options; `persam-ray --version` prints the version.",
            "To try it without photos or downloads: `persam-ray label --demo`.",
            "",
        ]
    )
