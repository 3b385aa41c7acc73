"""What --demo stands for, and the photos that it draws."""

from pathlib import Path

import pytest

from persam_ray.cli.command_line import parse
from persam_ray.data.checkpoints import read_checkpoint
from persam_ray.data.weights import DEMO_SAM, locate
from persam_ray.errors import ConfigError
from persam_ray.options.benchmark import BenchmarkConfig
from persam_ray.options.label import LabelConfig
from persam_ray.options.shard import ShardConfig
from persam_ray.sam.model import Sam


def test_the_flag_alone_is_enough_and_other_options_win_over_it() -> None:
    config = parse(BenchmarkConfig, ["--demo"])
    assert (config.images, config.output, config.sam, config.category) == (
        "demo/scenes",
        "demo/benchmark",
        "demo",
        "top",
    )
    assert (config.train_images, config.test_images, config.overwrite) == (10, 60, True)
    config = parse(BenchmarkConfig, ["--demo", "--category", "dress", "--steps=3", "--output", "elsewhere"])
    assert (config.category, config.steps, config.output, config.train_images) == ("dress", 3, "elsewhere", 10)


def test_a_category_takes_the_place_of_the_demos() -> None:
    config = parse(LabelConfig, ["--demo"])
    assert (config.category, config.chosen_ids) == (("top",), ("scene_000026.jpg",))
    config = parse(LabelConfig, ["--demo", "--category", "bag", "--category", "hair"])
    assert (config.category, config.chosen_ids) == (("bag", "hair"), ())
    assert parse(LabelConfig, ["--demo", "--references", "elsewhere"]).chosen_ids == ()
    assert parse(LabelConfig, ["--demo", "--reference-ids", "scene_000003.jpg"]).chosen_ids == ("scene_000003.jpg",)


def test_the_flag_can_stand_in_a_yaml_file(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("demo: true\nmethod: persam\n", encoding="utf-8")
    config = parse(LabelConfig, ["--config", str(tmp_path / "job.yaml")])
    assert (config.demo, config.method, config.sam) == (True, "persam", "demo")


@pytest.mark.parametrize("option", ["--images=photos", "--annotations=instances_a.json", "--reference=top=a.jpg,a.png"])
def test_photos_of_ones_own_do_not_go_with_it(option: str) -> None:
    with pytest.raises(ConfigError, match=f"--demo draws its own photos: leave {option.split('=', maxsplit=1)[0]} out"):
        parse(LabelConfig, ["--demo", option])


def test_the_sam_that_comes_along_loads_and_is_small() -> None:
    assert locate("demo") == str(DEMO_SAM)
    assert DEMO_SAM.stat().st_size < 20e6
    sam = Sam(read_checkpoint(str(DEMO_SAM)))
    assert sam.image_size_px % 32 == 0


def test_a_job_without_a_demo_says_that_it_has_no_such_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(ShardConfig, ["--demo", "--images", "photos", "--output", "shards"])
    assert ended.value.code == 2
    assert "--demo" in capsys.readouterr().err
