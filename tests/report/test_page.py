"""The page in a real browser: it shows what it should at desk and phone width, and runs nothing that data brings."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from persam_ray.report.benchmark_page import COMPARED_PHOTOS, SHOTS_PER_GROUP
from persam_ray.report.charts import draw_curve, draw_histogram
from persam_ray.report.gallery import OUTLINE_POINTS, THUMBNAIL_BYTES, Shot, Thumbnail, make_thumbnail, outline_of
from persam_ray.report.page import (
    MAX_PAGE_BYTES,
    Cell,
    FigureRow,
    FigureTable,
    Gallery,
    Group,
    Page,
    render,
    write_page,
)
from tests.conftest import disc, scene
from tests.encoded_images import encoded

HOSTILE = '"><script>document.title="owned"</script><img src=x onerror=alert(1)>\u202e\n' + "long" * 1000

Open = Callable[[Path, int, bool], webdriver.Chrome]


@pytest.fixture(scope="module")
def open_page() -> Iterator[Open]:
    """Open a page in headless Chromium, at a width, in the light or the dark."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)

    def open_at(path: Path, width: int, dark: bool) -> webdriver.Chrome:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": theme})
        browser.get(f"file://{path}")
        return browser

    yield open_at
    browser.quit()


def shot(index: int, image_id: str = "photo") -> Shot:
    photo = make_thumbnail(f"photo{index}", encoded(scene(90, 60 + index)))
    path = outline_of(disc(90, 60 + index), photo)
    return Shot(photo, image_id, path, path, ("score 0.50, IoU 0.75", image_id))


def sample(text: str = "PerSAM") -> Page:
    """Every part of the page, with a text from data wherever one can stand."""
    cells = (Cell("0.500", ("+0.100", "-0.050 to +0.250"), best=True),) * 12
    rows = (FigureRow(text, cells, series=0), FigureRow("failed one", series=1, error=text))
    return Page(
        title=text,
        lead=[text],
        facts=[(text, text)],
        table=FigureTable("Method", tuple(f"column {index}" for index in range(12)), rows, (text,)),
        curves=[draw_curve(text, 0, [1.0, 0.5, 0.0]), draw_curve("other", 1, [0.5] * 3, dashed=True)],
        histograms=[draw_histogram(text, 0, [0.1, 0.1, 0.9])],
        comparison=[[shot(0, text), shot(1, text)]],
        comparison_note=text,
        galleries=[Gallery(text, text, (Group(text, (shot(0, text), shot(2, text))), Group("none", ())))],
        reasons=[text],
        has_truth=True,
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run")
    return Path(write_page(str(output), sample()))


def errors(browser: webdriver.Chrome) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser")]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_and_says_nothing_to_the_console(
    page: Path, open_page: Open, tmp_path: Path, width: int, dark: bool
) -> None:
    browser = open_page(page, width, dark)
    assert errors(browser) == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.save_screenshot(str(tmp_path / "page.png"))
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 23, 26)" if dark else "rgb(251, 251, 250)")
    boxes = [image.size for image in browser.find_elements(By.CSS_SELECTOR, ".shot svg")]
    assert len(boxes) == 4
    assert all(box["width"] > 100 and box["height"] > 100 for box in boxes)


def test_photos_are_stored_once_and_shown_everywhere(page: Path, open_page: Open) -> None:
    browser = open_page(page, 1280, False)
    assert len(browser.find_elements(By.CSS_SELECTOR, "symbol")) == 3
    assert len(browser.find_elements(By.CSS_SELECTOR, ".shot use")) == 4
    widths = "return [...document.querySelectorAll('.shot use')].map((use) => use.getBBox().width)"
    assert browser.execute_script(widths) == [60, 61, 60, 62]


def test_a_click_enlarges_arrows_move_on_and_escape_returns(page: Path, open_page: Open) -> None:
    browser = open_page(page, 1280, False)
    buttons = browser.find_elements(By.CSS_SELECTOR, ".shot button")
    dialog = browser.find_element(By.TAG_NAME, "dialog")
    assert not dialog.is_displayed()
    buttons[1].click()
    assert dialog.is_displayed()
    assert "score 0.50, IoU 0.75 PerSAM" in dialog.text
    assert shown(browser) == "#photo1"
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert shown(browser) == "#photo2"
    assert dialog.find_element(By.TAG_NAME, "svg").size["height"] > 500
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()
    assert errors(browser) == []


def shown(browser: webdriver.Chrome) -> str:
    return str(browser.execute_script("return document.querySelector('dialog use').getAttribute('href')"))


def test_texts_from_data_are_shown_and_never_run(open_page: Open, tmp_path: Path) -> None:
    browser = open_page(Path(write_page(str(tmp_path), sample(HOSTILE))), 390, False)
    assert errors(browser) == []
    assert browser.title.startswith('"><script>')
    assert browser.execute_script("return document.scripts.length") == 1
    assert browser.find_elements(By.CSS_SELECTOR, "main img") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    browser.find_elements(By.CSS_SELECTOR, ".shot button")[0].click()
    assert "<script>" in browser.find_element(By.TAG_NAME, "dialog").text
    assert browser.title.startswith('"><script>')


def test_a_script_that_slips_in_would_be_refused(page: Path, open_page: Open, tmp_path: Path) -> None:
    """The content security policy is the second lock: here the first, escaping, is taken off."""
    broken = page.read_text(encoding="utf-8").replace("<main>", '<main><script>document.title = "owned"</script>')
    (tmp_path / "index.html").write_text(broken, encoding="utf-8")
    browser = open_page(tmp_path / "index.html", 1280, False)
    assert browser.title == "PerSAM"
    assert any("Content Security Policy" in message for message in errors(browser))


def test_parts_without_content_are_left_out() -> None:
    html = render(Page(title="t", lead=[], facts=[]))
    assert "<h2>" not in html
    assert "<figure" not in html


def test_the_largest_page_stays_within_its_bound() -> None:
    """5 methods of 3 galleries, and 6 photos by all of them: every photo and outline as large as they may be."""
    uri = "data:image/jpeg;base64," + "A" * (4 * THUMBNAIL_BYTES // 3)
    path = "M" + "L".join(["100.5 100.5"] * OUTLINE_POINTS) + "Z"
    galleries, compared = 5 * 3 * SHOTS_PER_GROUP, COMPARED_PHOTOS * 6
    photos = [Thumbnail(f"photo{index}", uri, 640, 480) for index in range(galleries + COMPARED_PHOTOS)]
    shots = [Shot(photos[index % len(photos)], "id", path, path, ("caption",)) for index in range(galleries + compared)]
    html = render(Page(title="t", lead=[], facts=[], galleries=[Gallery("g", "", (Group("all", tuple(shots)),))]))
    assert len(html.encode()) <= MAX_PAGE_BYTES
