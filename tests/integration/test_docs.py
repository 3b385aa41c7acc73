"""The examples of README.md and docs/ run as they stand, but for the weights: the small SAM that comes along."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from persam_ray.cli.main import main
from persam_ray.data.deepfashion import DEEPFASHION_CATEGORIES
from persam_ray.demo.scenes import draw_scene

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = re.compile(r"s3://|ray up|kubectl|docker|[A-Z]{4,}")
"""What an example of the shell has that speaks of another place: a bucket, a cluster, a name to be filled in."""


def blocks(page: Path, *languages: str) -> list[tuple[str, str]]:
    """Return the code blocks of some languages, in their order, as language and text."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [(language, code.replace("vit_b", "demo")) for language, code in found if language in languages]


def runnable(page: Path) -> list[tuple[str, str]]:
    return [
        (language, code)
        for language, code in blocks(page, "python", "sh")
        if language == "python" or not ELSEWHERE.search(code)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/, cup.jpg and cup_mask.png, where all pages' examples run, one after the other."""
    place = tmp_path_factory.mktemp("docs")
    (place / "photos").mkdir()
    for seed in (26, 27):
        Image.fromarray(draw_scene(seed).image_hw3).save(place / "photos" / f"{seed}.jpg")
    shown = draw_scene(26)
    mask_hw = shown.index_hw == DEEPFASHION_CATEGORIES.index("top")
    Image.fromarray(shown.image_hw3).save(place / "cup.jpg")
    Image.fromarray(mask_hw.astype(np.uint8) * 255).save(place / "cup_mask.png")
    return place


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=lambda page: page.name)
def test_the_examples_of_a_page_run(
    page: Path, folder: Path, shared_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, on the Ray that tests share."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    for language, code in runnable(page):
        if language == "python":
            exec(code, names)
        else:
            run_command(code)


def run_command(code: str) -> None:
    """Run an example of the shell: one command of ours."""
    program, *arguments = shlex.split(code.replace("\\\n", " "))
    assert program == "persam-ray"
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code


def test_pages_have_examples_of_both_kinds() -> None:
    found = {language for page in PAGES for language, _ in runnable(page)}
    assert found == {"python", "sh"}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", prose)
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []
