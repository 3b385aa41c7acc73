"""Convert photos of any format, and their annotations, to Parquet shards."""

from ray.data import Dataset

from persam_ray.cluster.plan import nodes, plan_workers
from persam_ray.cluster.progress import counted_progress
from persam_ray.cluster.reading import count_images, read_rows
from persam_ray.cluster.session import session
from persam_ray.console import console
from persam_ray.data.dataset import tell_ignored
from persam_ray.data.listing import open_dataset
from persam_ray.options.shard import ShardConfig
from persam_ray.runs.directory import prepare_output
from persam_ray.stages.write import WriteImages


def shard(config: ShardConfig) -> None:
    """Run the job: read rows, write one Parquet file for each `images_per_shard` of them."""
    dataset = open_dataset(config.images, config.format, config.annotations)
    tell_ignored(dataset)
    output = prepare_output(config.output, config.inputs, overwrite=config.overwrite)
    with session():
        plan = plan_workers(nodes())
        images = count_images(dataset, plan)
        with counted_progress("writing", images) as report:
            written: Dataset = read_rows(dataset, plan).map_batches(
                WriteImages(output, report),
                batch_size=config.images_per_shard,
                batch_format="pyarrow",
                num_cpus=plan.task_cpus,
            )
            files = list(written.iter_rows())
    console.print(f"{sum(file['images'] for file in files)} images in {len(files)} shards: {output}")
    problems = [problem for file in files for problem in file["problems"]]
    if problems:
        console.print(
            f"{len(problems)} images were written without what could not be read:", *problems[:20], sep="\n  "
        )
