"""What runs the jobs on a cluster: cluster.yaml by Ray's own checks, KubeRay's manifests by the fields that there are,
the Dockerfile by what it names. None of them is started."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.util import prepare_config, validate_config

from persam_ray.cli.command_line import parse
from persam_ray.cluster.labeling_run import COMPLETE_WITH_FAILURES
from persam_ray.options.label import LabelConfig

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
MANIFESTS = ("rayjob", "raycronjob")


def manifest(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "kuberay" / f"{name}.yaml").read_text())
    return content


def job_spec(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = manifest(name)["spec"]
    return spec["jobTemplate"] if name == "raycronjob" else spec


def pods(name: str) -> Iterator[dict[str, Any]]:
    spec = job_spec(name)
    yield spec["submitterPodTemplate"]["spec"]
    for group in (spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]):
        yield group["template"]["spec"]


def launcher() -> dict[str, Any]:
    """Return cluster.yaml with Ray's defaults filled in, as `ray up` does."""
    prepared: dict[str, Any] = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    return prepared


def base_image() -> re.Match[str]:
    version = re.search(r"^ARG RAY_VERSION=(\S+)$", DOCKERFILE, re.M)
    assert version
    base = re.search(r"^FROM (\S+)$", DOCKERFILE, re.M)
    assert base
    name = base[1].replace("${RAY_VERSION}", version[1])
    found = re.fullmatch(r"rayproject/ray:(?P<ray>[\d.]+)-py(?P<major>3)(?P<minor>\d+)-cpu", name)
    assert found
    return found


# --- Ray's launcher --------------------------------------------------------------------------------------------------


def test_ray_accepts_the_cluster_file() -> None:
    validate_config(launcher())


def test_ray_would_refuse_a_wrong_cluster_file() -> None:
    config = launcher()
    config["available_node_types"]["gpu"]["max_wrkers"] = 1
    with pytest.raises(jsonschema.ValidationError, match="max_wrkers"):
        validate_config(config)


def test_gpu_workers_come_and_go_on_spot_instances_and_tasks_keep_off_the_head() -> None:
    config = launcher()
    head, gpu = (config["available_node_types"][name] for name in ("head", "gpu"))
    assert config["head_node_type"] == "head"
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    assert gpu["resources"]["GPU"] == 1
    assert gpu["min_workers"] == 0 < gpu["max_workers"] <= config["max_workers"]
    assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert config["idle_timeout_minutes"] > 0


def test_the_launcher_installs_nothing_and_opens_nothing() -> None:
    config = launcher()
    assert not any(config[key] for key in ("head_setup_commands", "worker_setup_commands", "initialization_commands"))
    assert config["provider"]["security_group"].keys() == {"GroupName"}  # Ray's rules: all within it, and port 22
    start = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start


# --- KubeRay ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_have_only_fields_that_kuberay_knows(name: str) -> None:
    jsonschema.validate(manifest(name), json.loads((ROOT / "tests" / "data" / "kuberay.schema.json").read_text()))


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_wrong_field_anywhere_in_a_manifest_would_be_found(name: str) -> None:
    schema = json.loads((ROOT / "tests" / "data" / "kuberay.schema.json").read_text())
    for path in ((), ("rayClusterSpec",), ("rayClusterSpec", "headGroupSpec", "template", "spec")):
        wrong = manifest(name)
        where = wrong["spec"]["jobTemplate"] if name == "raycronjob" else wrong["spec"]
        for key in path:
            where = where[key]
        where["concurrencyPolicy"] = "Forbid"
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_run_on_kubernetes_starts_again_grows_from_zero_and_leaves_nothing(name: str) -> None:
    spec = job_spec(name)
    cluster = spec["rayClusterSpec"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"]
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (gpu,) = cluster["workerGroupSpecs"]
    assert (gpu["replicas"], gpu["minReplicas"]) == (0, 0)
    assert gpu["maxReplicas"] > 0
    (container,) = gpu["template"]["spec"]["containers"]
    for amounts in ("requests", "limits"):
        assert container["resources"][amounts]["nvidia.com/gpu"] == 1


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_run_without_rights_and_hold_no_secret_in_plain_text(name: str) -> None:
    for pod in pods(name):
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == 1000
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {entry["name"] for entry in container.get("env", [])} <= {"AWS_DEFAULT_REGION"}
            assert container["resources"]["requests"]
            assert container["resources"]["limits"]["memory"]


def test_the_nightly_run_is_the_single_one_with_a_time_limit() -> None:
    nightly, single = job_spec("raycronjob"), job_spec("rayjob")
    assert nightly.pop("activeDeadlineSeconds") < 24 * 3600  # every night at two
    assert nightly == single


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_entrypoint_is_a_command_that_the_job_takes(name: str) -> None:
    python, script, *options = (
        job_spec(name)["entrypoint"].partition(f" || [ $? -eq {COMPLETE_WITH_FAILURES} ]")[0].split()
    )
    assert python == "python"
    assert (ROOT / script.removeprefix("/home/ray/persam-ray/")).is_file()
    config = parse(LabelConfig, options)
    assert config.output.startswith("s3://")


# --- the image -------------------------------------------------------------------------------------------------------


def test_the_images_ray_and_python_are_those_of_the_project() -> None:
    base = base_image()
    (required,) = [Requirement(line) for line in PROJECT["dependencies"] if Requirement(line).name == "ray"]
    assert required.specifier.contains(base["ray"])
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{base['major']}.{base['minor']}")
    assert base["ray"].split(".")[:2] == ray.__version__.split(".")[:2], "the tests run on another Ray than the image's"
    for name in MANIFESTS:
        assert job_spec(name)["rayClusterSpec"]["rayVersion"] == base["ray"]


def test_one_image_of_this_version_is_named_everywhere() -> None:
    images = {container["image"] for name in MANIFESTS for pod in pods(name) for container in pod["containers"]}
    assert images == {launcher()["docker"]["image"]} == {f"REGISTRY/persam-ray:{PROJECT['version']}"}
    assert f'image.version="{PROJECT["version"]}"' in DOCKERFILE


def test_what_the_image_copies_is_there_and_it_does_not_run_as_root() -> None:
    copies = re.findall(r"^COPY (?:--\S+ )*(.+)$", DOCKERFILE, re.M)
    sources = [source for line in copies for source in line.split()[:-1]]
    assert {"pyproject.toml", "persam_ray", "jobs"} <= set(sources)
    assert all((ROOT / source).exists() for source in sources)
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.M)[-1] == "1000"
