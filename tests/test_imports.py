"""Imports go downward only: jobs -> cluster layer -> method layer -> types."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
METHOD_LAYER = frozenset(
    {
        "types", "masks", "images", "sam", "sam_build", "sam_decoder", "persam", "persam_f", "mask_rcnn", "few_shot",
        "evaluation", "evaluation_merge", "precision", "detection", "demo", "vit_encoder", "conv_encoder",
        "folded_decoder", "host_memory", "checkpoint_layout", "model_libraries", "packed_layers", "attention",
        "device_memory", "prompts", "raw_masks", "transfers",
    }
)  # fmt: skip
CLUSTER_LAYER = frozenset(
    {
        "annotations", "benchmark", "benchmark_report", "checkpoints", "cluster", "command_line", "config",
        "contenders", "counter", "feature_cache",
        "datasets", "detector_config", "examples", "gallery", "judging", "labeling", "labeling_run", "lease",
        "ledger", "model_stages", "models", "parts", "progress",
        "reading", "references", "report", "run_directory", "schema", "shards", "split", "stages", "storage",
        "demonstration", "photo_rows", "public_text", "sam_train_loop", "sam_training_config", "train_loop", "training",
    }
)  # fmt: skip
WITHOUT_RAY = frozenset(
    {
        "judging", "stages", "model_stages", "parts", "lease", "examples", "gallery", "report",
        "benchmark_report", "shards", "datasets",
        "feature_cache", "photo_rows", "storage", "schema",
    }
)  # fmt: skip
NOT_IN_THE_METHOD_LAYER = frozenset({"ray", "pyarrow", "fsspec", "s3fs", "boto3", "botocore"})

PACKAGE = ROOT / "persam_ray"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.stem != "__init__"
}
JOBS = {path.stem: path for path in sorted((ROOT / "jobs").glob("*.py")) if path.stem != "__init__"}


def imports_of(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield every import of a file, inside functions and TYPE_CHECKING too, as the parts of its name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports would be missed here"
            assert node.module is not None
            yield from ((*node.module.split("."), alias.name) for alias in node.names)


def packages_of(path: Path) -> set[str]:
    return {parts[0] for parts in imports_of(path)}


def layer_name(module: str) -> str:
    """Return the name by which a module stands in a layer: a package (`demo.scenes`) stands there as a whole."""
    return module.partition(".")[0]


def own_modules_of(path: Path) -> set[str]:
    return {parts[1] for parts in imports_of(path) if parts[0] == "persam_ray"}


def test_the_walk_sees_imports_of_every_form(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "import ray.data\nfrom persam_ray import storage\n"
        "def f():\n    from persam_ray.masks import encode_rle\n"
        "if TYPE_CHECKING:\n    import pyarrow as pa\n"
    )
    assert packages_of(tmp_path / "a.py") == {"ray", "persam_ray", "pyarrow"}
    assert own_modules_of(tmp_path / "a.py") == {"storage", "masks"}


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_place(name: str) -> None:
    assert (layer_name(name) in METHOD_LAYER) != (layer_name(name) in CLUSTER_LAYER), (
        f"persam_ray.{name} is new: place it in METHOD_LAYER or CLUSTER_LAYER of tests/test_imports.py"
    )


@pytest.mark.parametrize("name", [name for name in MODULES if layer_name(name) in METHOD_LAYER])
def test_the_method_layer_knows_nothing_of_the_cluster(name: str) -> None:
    assert not packages_of(MODULES[name]) & NOT_IN_THE_METHOD_LAYER
    assert own_modules_of(MODULES[name]) <= METHOD_LAYER


def test_types_are_at_the_bottom() -> None:
    assert own_modules_of(MODULES["types"]) == set()


@pytest.mark.parametrize("name", sorted(WITHOUT_RAY))
def test_what_reads_and_writes_does_without_ray(name: str) -> None:
    assert "ray" not in packages_of(MODULES[name])
    assert "cluster" not in own_modules_of(MODULES[name])


@pytest.mark.parametrize("name", MODULES)
def test_nothing_imports_a_job_a_test_or_a_benchmark(name: str) -> None:
    assert not packages_of(MODULES[name]) & {"jobs", "tests", "benchmarks"}


@pytest.mark.parametrize("name", JOBS)
def test_jobs_import_no_other_job(name: str) -> None:
    assert not packages_of(JOBS[name]) & {"jobs", "tests", "benchmarks"}
    assert own_modules_of(JOBS[name]) <= METHOD_LAYER | CLUSTER_LAYER


@pytest.mark.parametrize(
    "module", ["persam_ray.stages", "persam_ray.command_line", "persam_ray.checkpoints", "persam_ray.references"]
)
def test_reading_options_and_photos_loads_neither_torch_nor_ray(module: str) -> None:
    code = f"import sys, {module}; print({{'torch', 'ray'}} & sys.modules.keys())"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "set()"
