"""What `import persam_ray as pr` gives: names that are loaded when they are asked for, each documented."""

import subprocess
import sys
import time

import pytest

import persam_ray as pr


def test_every_name_is_there_and_documented_with_an_example() -> None:
    for name in pr.__all__:
        assert name in dir(pr)
        assert getattr(pr, name).__doc__, name
    for name in ("Labeler", "label", "load_sam", "read_predictions"):
        assert ">>>" in getattr(pr, name).__doc__, name
    assert ">>>" in (pr.Reference.open.__doc__ or "")


def test_an_unknown_name_is_an_attribute_error_that_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'export'; it has LabeledInstance"):
        pr.export  # noqa: B018 - asking for it is the test


def test_the_import_takes_no_time() -> None:
    started_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import persam_ray"], check=True)
    with_package_s = time.perf_counter() - started_s
    started_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    assert with_package_s - (time.perf_counter() - started_s) < 0.2
