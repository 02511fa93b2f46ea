from __future__ import annotations

import pytest

from polytask import Run
from tests.report.browser import Browser, chromium

OVER = """
[...document.querySelectorAll('h1, h2, h3, h4, svg text, figcaption, .legend li, .card p, .panels *, .scale *')]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.textContent)
"""
ON_ONE_ANOTHER = """
[...document.querySelectorAll('svg')].flatMap(svg => {
    const boxes = [...svg.querySelectorAll('text')].map(e => [e.getBoundingClientRect(), e.textContent]);
    return boxes.flatMap(([a, one], i) => boxes.slice(i + 1).filter(([b]) =>
        a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 2 && b.top < a.bottom - 2
    ).map(([_, other]) => one + ' on ' + other));
})
"""
CUT = """
[...document.querySelectorAll('.listing .scroll, .listing.scroll')]
    .filter(e => !e.closest('details') && e.scrollWidth > e.clientWidth).map(e => e.textContent)
"""
EMPTY = "[...document.querySelectorAll('.drawing')].filter(e => e.getBoundingClientRect().height < 100).length"
UNSEEN = "[...document.images].filter(e => !e.complete || !e.naturalWidth || e.width < 40 || !e.alt).length"
SECTIONS = "[...document.querySelectorAll('section')].map(e => e.id)"


@pytest.mark.parametrize("name", ["run", "pixels"])
def test_page_in_a_browser(name: str, request: pytest.FixtureRequest) -> None:
    executable = chromium()
    if executable is None:
        pytest.skip("no Chromium on the path; POLYTASK_CHROMIUM names one")
    run: Run = request.getfixturevalue(name)
    assert run.folder is not None
    page = run.folder / "report.html"
    with Browser(executable) as browser:
        for width, dark in ((400, False), (400, True), (1400, False), (1400, True)):
            browser.open(page, width, dark=dark)
            assert browser.value(SECTIONS) == ["verdict", "tasks", "between", "inputs", "record"]
            assert browser.value("document.documentElement.scrollWidth") == width
            assert browser.value(CUT) == [], "tables of scores are seen whole"
            assert browser.value(OVER) == []
            assert browser.value(ON_ONE_ANOTHER) == []
            assert browser.value(EMPTY) == 0
            assert browser.value(UNSEEN) == 0
            assert bool(browser.value("document.images.length")) == (name == "pixels")
            paper = browser.value("getComputedStyle(document.querySelector('main')).backgroundColor")
            assert paper == ("rgb(21, 24, 28)" if dark else "rgb(255, 255, 255)")
        assert browser.complaints == []
        assert {url for url in browser.requests if not url.startswith("data:image/png;base64,")} == {page.as_uri()}
