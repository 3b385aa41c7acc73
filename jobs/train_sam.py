"""Train the demo's compact SAM from random weights on drawn scenes, on Ray Train: weights and history out."""

from __future__ import annotations

from persam_ray import cluster, run_directory
from persam_ray.command_line import run_job
from persam_ray.progress import clock, console
from persam_ray.sam_training_config import TrainSamConfig


def train(config: TrainSamConfig) -> None:
    """Run the job: draw the scenes, train, and say what it came to."""
    output = run_directory.prepare(config.output, (), overwrite=config.overwrite, resume=config.resume)
    with cluster.session():
        from persam_ray.sam_train_loop import train_sam

        fitted = train_sam(config, output)
    run_directory.write_training_manifest(output, config.as_dict(), (), {}, fitted.seconds)
    first, last = fitted.epochs[0], fitted.epochs[-1]
    console.print(
        f"{len(fitted.epochs)} epochs on {config.scenes} scenes in {clock(fitted.seconds)}: loss {first['loss']:.3f} "
        f"in the first, {last['loss']:.3f} in the last"
    )
    console.print(f"results: {fitted.checkpoint}")
    console.print(f"its quality: python benchmarks/sam_quality.py --sam {fitted.checkpoint}")


if __name__ == "__main__":
    run_job(train, TrainSamConfig)
