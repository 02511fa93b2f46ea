from __future__ import annotations

import pytest

from polytask import Run
from tests.report import pixels as of_pixels
from tests.report.runs import made_up


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a task of every kind and names that are hard on a page, with its report beside it."""
    run = made_up(tmp_path_factory.mktemp("report"))
    run.report()
    return run


@pytest.fixture(scope="session")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with tasks that have an answer at every pixel, with its report beside it."""
    run = of_pixels.made_up(tmp_path_factory.mktemp("pixels"))
    run.report()
    return run
