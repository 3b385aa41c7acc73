import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from persam_ray.cli.command_line import parse, run_job
from persam_ray.data.storage import StorageError
from persam_ray.errors import ConfigError
from persam_ray.options.base import JobConfig, OutputConfig
from persam_ray.options.benchmark import BenchmarkConfig
from persam_ray.options.evaluate import EvaluateConfig
from persam_ray.options.label import LabelConfig
from persam_ray.options.predict_mask_rcnn import PredictConfig
from persam_ray.options.shard import ShardConfig
from persam_ray.options.train_mask_rcnn import TrainConfig
from persam_ray.options.train_sam import TrainSamConfig

PLACES = ["--images", "photos", "--output", "out"]
PAIR = ["--reference", "cup=a.jpg,b.png"]
YAML = "images: photos\noutput: out\nreference: cup=a.jpg,b.png\n"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # so that messages are not broken into lines


def from_yaml(text: str, *arguments: str) -> LabelConfig:
    Path("options.yaml").write_text(text, encoding="utf-8")
    return parse(LabelConfig, [*arguments, "--config", "options.yaml"])


def refused(arguments: Sequence[str], capsys: pytest.CaptureFixture[str], config: type[JobConfig] = LabelConfig) -> str:
    """Return what is said about options that are refused, by tyro or by us, in one line."""
    with pytest.raises((SystemExit, ConfigError)) as ended:
        parse(config, arguments)
    if isinstance(ended.value, ConfigError):
        return str(ended.value)
    assert isinstance(ended.value, SystemExit)
    assert ended.value.code == 2
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


# --- the command line ------------------------------------------------------------------------------------------------


def test_options_repeat_and_are_written_in_any_usual_way() -> None:
    written = ["--references", "r", "--category=a b", "--category", "c", "--reference-ids", "1,2", "--reference_ids=3"]
    config = parse(LabelConfig, ["--images=photos", "--output", "out", *written, "--min_area_fraction", "1e-3"])
    assert config.category == ("a b", "c")
    assert config.chosen_ids == ("1", "2", "3")
    assert config.min_area_fraction == 0.001


@pytest.mark.parametrize(
    "pair", ["cup", "cup=", "cup=a.jpg", "=a.jpg,b.png", "cup=a.jpg,", "cup=,b.png", "a.jpg,b.png"]
)
def test_a_reference_of_another_form_is_refused(pair: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused([*PLACES, "--reference", pair], capsys)
    assert f"--reference must have the form CATEGORY=IMAGE,MASK, but got '{pair}'" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*PAIR, "--imagse", "x"], "Unrecognized options: --imagse"),
        ([*PAIR, "--min-area", "0.5"], "Unrecognized options: --min-area"),
        ([*PAIR, "stray"], "Unrecognized options: stray"),
        ([*PAIR, "--min-area-fraction", "2"], "--min-area-fraction must be between 0 and 1, but is 2.0"),
        ([*PAIR, "--min-area-fraction", "-0.1"], "--min-area-fraction must be between 0 and 1, but is -0.1"),
        ([*PAIR, "--min-area-fraction", "nan"], "--min-area-fraction must be between 0 and 1, but is nan"),
        ([*PAIR, "--min-area-fraction", "much"], "--min-area-fraction"),
        ([*PAIR, "--actors", "0"], "--actors must be at least 1, but is 0"),
        ([*PAIR, "--batch-size", "-3"], "--batch-size must be at least 1, but is -3"),
        ([*PAIR, "--batch-size", "1.5"], "--batch-size"),
        ([*PAIR, "--method", "sam"], "'--method'. Expected one of ('persam', 'persam_f')"),
        ([*PAIR, "--format", "zip"], "'--format'. Expected one of ('auto', 'parquet'"),
        ([*PAIR, "--sam"], "'--sam'"),
        ([], "give --reference CATEGORY=IMAGE,MASK or --references URI"),
        ([*PAIR, "--references", "r", "--category", "cup"], "give --reference CATEGORY=IMAGE,MASK or --references URI"),
        ([*PAIR, "--category", "cup"], "--category goes with --references"),
        ([*PAIR, "--reference-ids", "1"], "--reference-ids goes with --references"),
        (["--references", "r"], "--references needs at least one --category"),
        ([*PAIR, "--images", ""], "--images must not be empty"),
        ([*PAIR, "--output", ""], "--output must not be empty"),
        ([*PAIR, "--feature-cache", ""], "--feature-cache must not be empty"),
        (
            [*PAIR, "--feature-cache", "c", "--feature-cache-gb", "-1"],
            "--feature-cache-gb must be between 0 and 1000000, but is -1",
        ),
        ([*PAIR, "--feature-cache", "photos/c"], "--feature-cache photos/c: must not lie within"),
        ([*PAIR, "--feature-cache", "."], "/photos, nor the other way round"),
        ([*PAIR, "--feature-cache", "out"], "/out, nor the other way round"),
        ([*PAIR, "--feature-cache", "a.jpg"], "/a.jpg, nor the other way round"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused([*PLACES, *arguments], capsys)


def test_missing_places_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(PAIR, capsys)
    assert "--images" in said
    assert "--output" in said


@pytest.mark.parametrize(
    "config", [LabelConfig, ShardConfig, EvaluateConfig, TrainConfig, PredictConfig, BenchmarkConfig, TrainSamConfig]
)
def test_help_explains_every_option(config: type[OutputConfig], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(config, ["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(config):
        assert f"--{field.name.replace('_', '-')}" in text
    assert "Example: persam-ray " in text
    assert "YAML file (path or URL)" in text
    assert not re.search(r"(^|│ +|[.] )Of ", text, re.MULTILINE)  # a fragment without a verb


def test_the_manifest_gets_the_options_without_the_file_they_came_from() -> None:
    options = from_yaml(YAML).as_dict()
    assert "config" not in options
    assert options["reference"] == ("cup=a.jpg,b.png",)


# --- the YAML file ---------------------------------------------------------------------------------------------------


def test_every_option_can_stand_in_the_file() -> None:
    config = from_yaml(
        YAML
        + "min_area_fraction: 1e-3\nbatch-size: 4\nactors: '2'\noverwrite: true\nmethod: persam_f\nsam: my sam.pth\n"
    )
    assert (config.images, config.output, config.reference) == ("photos", "out", ("cup=a.jpg,b.png",))
    assert (config.min_area_fraction, config.batch_size, config.actors) == (0.001, 4, 2)
    assert (config.overwrite, config.method, config.sam) == (True, "persam_f", "my sam.pth")


@pytest.mark.parametrize("config", ["--config=options.yaml", "--config", "first"])
def test_the_file_may_be_named_in_any_usual_way(config: str) -> None:
    Path("options.yaml").write_text(YAML, encoding="utf-8")
    arguments = {
        "--config": ["--config", "options.yaml"],
        "first": ["--config", "options.yaml", "--sam", "x"],
    }.get(config, [config])
    assert parse(LabelConfig, arguments).images == "photos"


def test_a_list_repeats_an_option() -> None:
    config = from_yaml("images: i\noutput: o\nreference:\n  - a=1,2\n  - b=3,4\n")
    assert config.reference == ("a=1,2", "b=3,4")
    config = from_yaml("images: i\noutput: o\nreferences: r\ncategory: [cup]\nreference: []\n")
    assert (config.category, config.reference) == (("cup",), ())


@pytest.mark.parametrize("written", [["--images", "mine"], ["--images=mine"]])
def test_the_command_line_wins(written: list[str]) -> None:
    config = from_yaml(YAML + "min-area-fraction: 0.1\n", *written, "--min_area_fraction", "0.2")
    assert (config.images, config.min_area_fraction, config.output) == ("mine", 0.2, "out")


def test_a_repeated_option_of_the_command_line_replaces_that_of_the_file() -> None:
    assert from_yaml(YAML, "--reference", "x=1,2", "--reference", "y=3,4").reference == ("x=1,2", "y=3,4")


@pytest.mark.parametrize(
    ("text", "categories"),
    [
        ("[no, yes, on, off]", ("no", "yes", "on", "off")),
        ("[1.0, 007, 0x10, 1_000]", ("1.0", "007", "0x10", "1_000")),
        ("[2026-01-01, 12:30]", ("2026-01-01", "12:30")),
        ("[true, ü, '-x', 'a b']", ("true", "ü", "-x", "a b")),
        ("no", ("no",)),
    ],
)
def test_names_in_the_file_are_taken_as_they_are_written(text: str, categories: tuple[str, ...]) -> None:
    assert from_yaml(f"images: i\noutput: o\nreferences: r\ncategory: {text}\n").category == categories


@pytest.mark.parametrize("null", ["", "~", "null", "NULL"])
def test_null_leaves_the_default(null: str) -> None:
    config = from_yaml(f"{YAML}actors: {null}\nsam: {null}\noverwrite: {null}\n")
    assert (config.actors, config.sam, config.overwrite) == (None, "vit_b", False)


@pytest.mark.parametrize(("text", "value"), [("yes", True), ("True", True), ("false", False), ("off", False)])
def test_a_switch_is_on_or_off(text: str, value: bool) -> None:
    assert from_yaml(f"{YAML}overwrite: {text}\n").overwrite is value


@pytest.mark.parametrize("text", ["", "{}", "# nothing\n", "---\n"])
def test_a_file_without_options_changes_nothing(text: str) -> None:
    assert dataclasses.replace(from_yaml(text, *PLACES, *PAIR), config=None) == parse(LabelConfig, [*PLACES, *PAIR])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("imagse: x", r"unknown option 'imagse'; allowed are --output, --overwrite, --images, "),
        ("imagse: null", "unknown option 'imagse'"),
        ("imagse: false", "unknown option 'imagse'"),
        ("5: x", "unknown option '5'"),
        ("help: true", "unknown option 'help'"),
        ("config: other.yaml", "unknown option 'config'"),
        ("images: [a, b]", r"--images must be one value .*, but is \['a', 'b'\]"),
        ("sam: {name: x}", "--sam must be one value"),
        ("category: [[a], b]", "--category must be one value"),
        ("overwrite: 1", "--overwrite must be true or false, but is '1'"),
        ("overwrite: [true]", "--overwrite must be true or false"),
        ("- a\n- b", "must be a mapping of option names to values"),
        ("words", "must be a mapping of option names to values"),
        ("a: [1", "not valid YAML"),
        ("? [a]\n: b", "not valid YAML"),
        ("a:\tb: c", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"^--config options.yaml: {reason}"):
        from_yaml(text, "--output", "out", *PAIR)


def test_a_wrong_value_in_the_file_is_refused_as_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("options.yaml").write_text(YAML + "min_area_fraction: 7\n", encoding="utf-8")
    said = refused(["--config", "options.yaml"], capsys)
    assert "--min-area-fraction must be between 0 and 1, but is 7.0" in said


def test_code_in_the_file_does_not_run() -> None:
    with pytest.raises(ConfigError, match="must be a mapping"):
        from_yaml("!!python/object/apply:os.system ['touch ran']")
    assert not Path("ran").exists()


def test_a_file_that_is_missing_or_no_text_is_named() -> None:
    with pytest.raises(StorageError, match=r"nowhere\.yaml: not found"):
        parse(LabelConfig, ["--config", "nowhere.yaml"])
    Path("latin.yaml").write_bytes(b"images: caf\xe9")
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse(LabelConfig, ["--config", "latin.yaml"])


# --- ending ----------------------------------------------------------------------------------------------------------


def run(job: object, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """Run a job as a script; return the status or message that the process ends with, None for success."""
    try:
        run_job(ShardConfig, lambda: job, [*PLACES, *arguments], "persam-ray shard")  # type: ignore[arg-type, return-value]
    except SystemExit as ended:
        return ended.code
    return None


def test_a_job_that_completes_ends_with_success(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ShardConfig] = []
    assert run(seen.append, monkeypatch, "--images-per-shard", "7") is None
    assert [config.images_per_shard for config in seen] == [7]


@pytest.mark.parametrize("error", [StorageError("s3://b:\n not  found"), ConfigError("s3://b: not found")])
def test_an_error_that_a_user_can_cause_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def job(_config: ShardConfig) -> None:
        raise error

    assert run(job, monkeypatch) == "error: s3://b: not found"


def test_an_interrupted_job_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def job(_config: ShardConfig) -> None:
        raise KeyboardInterrupt

    assert run(job, monkeypatch) == "error: interrupted"


def test_an_error_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def job(_config: ShardConfig) -> None:
        raise ValueError("a mistake in the code")

    said = str(run(job, monkeypatch))
    assert said.startswith("Traceback (most recent call last):\n")
    assert said.endswith("\nValueError: a mistake in the code")
