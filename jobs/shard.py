"""Convert photos of any format, and their annotations, to Parquet shards."""

from ray.data import Dataset

from persam_ray import cluster, run_directory
from persam_ray.command_line import run_job
from persam_ray.config import ShardConfig
from persam_ray.datasets import open_dataset
from persam_ray.progress import console, show_progress, tell_ignored
from persam_ray.reading import count_images, read_rows
from persam_ray.stages import WriteImages


def shard(config: ShardConfig) -> None:
    """Run the job: read rows, write one Parquet file for each `shard_mb` of them."""
    dataset = open_dataset(config.images, config.format, config.annotations)
    tell_ignored(dataset)
    output = run_directory.prepare(config.output, config.inputs, overwrite=config.overwrite)
    with cluster.session():
        plan = cluster.plan_workers(cluster.nodes())
        images = count_images(dataset, plan)
        counter = cluster.start_counter()
        written: Dataset = read_rows(dataset, plan).map_batches(
            WriteImages(output, cluster.report_to(counter)),
            batch_size=config.images_per_shard,
            batch_format="pyarrow",
            num_cpus=plan.task_cpus,
        )
        with show_progress("writing", images, lambda: cluster.read_counter(counter)[:2]):
            files = list(written.iter_rows())
    console.print(f"{sum(file['images'] for file in files)} images in {len(files)} shards: {output}")
    problems = [problem for file in files for problem in file["problems"]]
    if problems:
        console.print(
            f"{len(problems)} images were written without what could not be read:", *problems[:20], sep="\n  "
        )


if __name__ == "__main__":
    run_job(shard, ShardConfig)
