"""A feature cache before any work: which places are taken."""

from pathlib import Path

import pytest

from persam_ray.data.storage import StorageError
from persam_ray.stages.feature_cache import GB, FeatureCache, open_cache

KEY = "0" * 64


def test_no_cache_is_asked_for_by_default() -> None:
    assert open_cache(None, 50.0) is None


def test_a_new_folder_is_all_room_and_hidden_files_are_no_offence(tmp_path: Path) -> None:
    assert open_cache(str(tmp_path / "new"), 2.0) == FeatureCache(str(tmp_path / "new"), 2 * GB)
    (tmp_path / "new" / ".partial").write_bytes(b"12345")
    assert open_cache(str(tmp_path / "new"), 2.0) == FeatureCache(str(tmp_path / "new"), 2 * GB - 5)


@pytest.mark.parametrize("name", ["holiday.jpg", f"features-0/00/{KEY}.safetensors", f"features-1/{KEY}.safetensors"])
def test_a_folder_of_other_things_or_another_format_is_left_alone_and_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"1")
    assert open_cache(str(tmp_path), 1.0) is None
    said = capsys.readouterr().err
    assert f"--feature-cache {tmp_path}: not used, because it holds other files than features-1/ ({name}" in said
    assert said.count("\n") == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]


def test_a_place_that_cannot_be_written_is_an_error_that_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"^--feature-cache [^\n]*file/below: cannot be written[^\n]*$"):
        open_cache(str(tmp_path / "file" / "below"), 1.0)
