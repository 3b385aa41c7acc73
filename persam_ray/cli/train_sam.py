"""Train the demo's compact SAM from random weights on drawn scenes, on Ray Train: weights and history out."""

from __future__ import annotations

from persam_ray.cluster.session import session
from persam_ray.console import clock, console
from persam_ray.options.train_sam import TrainSamConfig
from persam_ray.runs.directory import prepare_output
from persam_ray.runs.manifest import write_training_manifest


def train(config: TrainSamConfig) -> None:
    """Run the job: draw the scenes, train, and print a summary."""
    output = prepare_output(config.output, (), overwrite=config.overwrite, resume=config.resume)
    with session():
        from persam_ray.training.compact_sam import train_sam

        fitted = train_sam(config, output)
    write_training_manifest(output, config.as_dict(), (), {}, fitted.seconds)
    first, last = fitted.epochs[0], fitted.epochs[-1]
    console.print(
        f"{len(fitted.epochs)} epochs on {config.scenes} scenes in {clock(fitted.seconds)}: loss {first['loss']:.3f} "
        f"in the first, {last['loss']:.3f} in the last"
    )
    console.print(f"results: {fitted.checkpoint}")
    console.print(f"its quality: python benchmarks/sam_quality.py --sam {fitted.checkpoint}")
