"""A real browser opens the page without network, and has nothing to complain about."""

import pytest
from report_browser import browser, opened
from report_folders import write_experiment, write_finished_run
from report_reading import read

from tiltrl.report import write_report

CHROME = browser()
pytestmark = pytest.mark.skipif(
    CHROME is None, reason="no Chromium or Chrome on PATH, and TILTRL_BROWSER names none to open the page in"
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    both = [write_finished_run(folder / "run"), write_experiment(folder / "experiment")]
    return write_report(both, folder / "report.html")


@pytest.fixture(scope="module")
def page(path, tmp_path_factory):
    assert CHROME is not None
    with opened(CHROME, tmp_path_factory.mktemp("profile")) as page:
        page.view(1200)
        page.open(path)
        yield page


def test_nothing_is_reported_and_nothing_fetched(page, path):
    assert page.told("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded") == []
    asked = [told["request"]["url"] for told in page.told("Network.requestWillBeSent")]
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]


def test_all_tables_and_pictures_are_shown(page, path):
    found = read(path)
    assert page.value("document.images.length") == len(found.pictures) > 5
    assert page.value("[...document.images].every(image => image.complete && image.naturalWidth > 100)")
    assert page.value("document.querySelectorAll('table').length") == len(found.tables) > 5
    shown = "[...document.querySelectorAll('main > *, section > .scroll')].every(one => one.offsetHeight > 0)"
    assert page.value(shown)


@pytest.mark.parametrize("width", [1200, 400])
def test_only_tables_and_pictures_scroll_sideways(page, width):
    page.view(width)
    assert page.value("document.documentElement.scrollWidth") <= width


def test_dark_mode_is_dark_and_paper_is_white(page):
    def paper():
        return page.value("getComputedStyle(document.body).backgroundColor")

    page.view(1200, dark=True)
    assert paper() == "rgb(20, 24, 28)"
    page.view(1200, dark=True, medium="print")
    assert paper() == "rgb(255, 255, 255)"
    page.view(1200)
    assert paper() == "rgb(255, 255, 255)"
