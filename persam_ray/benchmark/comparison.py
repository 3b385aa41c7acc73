"""Compare Mask R-CNN trained on a few images with PerSAM given one of them, on the same test images."""

from persam_ray.benchmark.contenders import Contest, run_mask_rcnn, run_persam
from persam_ray.benchmark.rows import (
    AnyResult,
    BenchmarkError,
    FailedMethod,
    MethodResult,
    as_json,
    charts,
    in_order,
    table,
    title_of,
)
from persam_ray.benchmark.split import (
    Annotated,
    Split,
    check_categories,
    check_ids,
    draw_split,
    draw_training_images,
    list_annotated,
    listed_split,
)
from persam_ray.cluster.plan import WorkerPlan, in_task, nodes, plan_workers
from persam_ray.cluster.reading import count_images
from persam_ray.cluster.references import load_reference
from persam_ray.cluster.session import session
from persam_ray.console import console, show_table
from persam_ray.data.dataset import Dataset
from persam_ray.data.listing import open_dataset
from persam_ray.data.storage import join, write_json
from persam_ray.data.weights import check_start, locate
from persam_ray.errors import BadReferenceError
from persam_ray.options.base import split_ids
from persam_ray.options.benchmark import BenchmarkConfig
from persam_ray.report.benchmark_page import MethodRun, write_benchmark_report
from persam_ray.report.results import BenchmarkResults
from persam_ray.runs.directory import prepare_output
from persam_ray.types import Reference


def compare(config: BenchmarkConfig) -> None:
    """Split the photos, train and label by each method, compare, and write the table and the report.

    Raises:
        BenchmarkError: A method failed; the others' results and the report are written all the same.
    """
    dataset = open_dataset(config.images, config.format, config.annotations)
    output = prepare_output(config.output, config.inputs, overwrite=config.overwrite)
    check_start(config.start)
    sam_uri = locate(config.sam)
    with session():
        plan = plan_workers(nodes())
        count_images(dataset, plan)  # no key twice
        annotated = list_annotated(dataset, plan)
        split = make_split(config, dataset, annotated, plan)
        contest = Contest(config, dataset, split, first_reference(config, dataset, split, annotated), output, plan)
        results = in_order([*run_mask_rcnn(contest), *run_persam(contest, sam_uri)])
        content = describe(contest, results)
        write_json(join(output, "benchmark.json"), content)
        page = write_report(contest, content, results)
    show_table(table(content["rows"]))
    console.print(f"results: {output}, report: {page}")
    if failed := [result for result in results if isinstance(result, FailedMethod)]:
        raise BenchmarkError(f"{len(failed)} of {len(results)} rows failed: {failed[0].run}: {failed[0].error}")


def make_split(config: BenchmarkConfig, dataset: Dataset, annotated: Annotated, plan: WorkerPlan) -> Split:
    """Return the images that the options name, or draw them."""
    check_categories([config.category], annotated, dataset.uri)
    train_ids, test_ids = split_ids(config.train_ids), split_ids(config.test_ids)
    check_ids([*train_ids, *test_ids], annotated, dataset.uri)
    if not train_ids:
        free = {image_id: held for image_id, held in annotated.items() if image_id not in test_ids}
        train_ids = draw_training_images(dataset, free, [config.category], config.train_images or 10, config.seed, plan)
    if test_ids:
        return listed_split(annotated, config.category, train_ids, test_ids)
    return draw_split(dataset, annotated, config.category, train_ids, config.test_images or 300, config.seed)


def first_reference(
    config: BenchmarkConfig, dataset: Dataset, split: Split, annotated: Annotated
) -> tuple[str, Reference]:
    """Return the training image that PerSAM is given: the first that holds the category and can be used.

    Raises:
        BadReferenceError: Those that hold the category cannot be used.
        BenchmarkError: None of the images holds the category, or none of the test images does.
    """
    category = config.category
    if not split.test_with_category:
        raise BenchmarkError(f"none of the {len(split.test_ids)} test images holds the category {category!r}")
    holders = [image_id for image_id in split.train_ids if category in annotated[image_id]]
    for image_id in holders:
        try:
            return image_id, load_reference(dataset, image_id, category)
        except BadReferenceError:
            if image_id == holders[-1]:
                raise
    raise BenchmarkError(f"none of the {len(split.train_ids)} training images holds the category {category!r}")


def write_report(contest: Contest, content: BenchmarkResults, results: list[AnyResult]) -> str:
    """Build the page in a task, which reads a few dozen photos again, and return its URI."""
    runs = [
        MethodRun(title_of(name), run.folder, run.judge)
        for name, run in contest.all_runs().items()
        if any(result.run == name and isinstance(result, MethodResult) for result in results)
    ]
    drawn = charts(results, contest.config.category)
    tests = contest.dataset.only(contest.split.test_ids)
    page: str = in_task(contest.plan, write_benchmark_report, contest.output, tests, content, runs, drawn)
    return page


def describe(contest: Contest, results: list[AnyResult]) -> BenchmarkResults:
    """Return the content of benchmark.json: what was compared on what, and what came of it."""
    config, split = contest.config, contest.split
    return {
        "category": config.category,
        "train_images": len(split.train_ids),
        "test_images": len(split.test_ids),
        "test_images_with_category": split.test_with_category,
        "objects": config.objects,
        "iou_threshold": 0.5,
        "min_area_fraction": config.min_area_fraction,
        "seed": config.seed,
        "reference_id": contest.reference[0],
        "train_ids": list(split.train_ids),
        "test_ids": list(split.test_ids),
        "rows": as_json(results, config.category, config.seed),
    }
