from __future__ import annotations

import builtins
import html
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from polytask import PolytaskError, Run, load
from polytask.report.evidence import Evidence
from tests.cli.command import done, mistake
from tests.report.runs import N_TEST, NAMES, SCRIPT

SECTIONS = ("verdict", "tasks", "between", "inputs", "record")


def text_of(place: Path) -> str:
    """What a reader sees of a page."""
    body = place.read_text(encoding="utf-8").partition("<body>")[2]
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", body)))


def report_of(run: Run) -> Path:
    assert run.folder is not None
    return run.folder / "report.html"


@pytest.fixture
def moved(run: Run, tmp_path: Path) -> Callable[[], Path]:
    """A copy of the run's folder."""

    def copy() -> Path:
        assert run.folder is not None
        return Path(shutil.copytree(run.folder, tmp_path / "copy"))

    return copy


def test_page_has_every_section_and_panel(run: Run) -> None:
    page, seen = report_of(run).read_text(encoding="utf-8"), text_of(report_of(run))
    assert re.findall(r'<section id="(\w+)"', page) == list(SECTIONS)
    for panel in (
        "How good is each task?",
        "What to try next, and why",
        "Learning curve",
        "Predicted against true",
        "Residuals by tenths",
        "Confusion",
        "ROC",
        "Precision and recall",
        "Calibration",
        "Hanging rootogram",
        "Coverage of the quantiles",
        "Scores by slice",
        "worst rows",
        "Correlation of labels",
        "Share of labels present",
        "Cosine of gradients",
        "Norm ratios over time",
        "Weights over time",
        "Gates",
        "Permutation importance",
        "Data fingerprints",
        "@inproceedings{ma2018mmoe",
    ):
        assert panel in seen, panel
    assert f"{N_TEST:,} test rows" in seen
    assert "Not shown" not in seen
    assert " nan" not in seen.partition("To do it again")[0]


def test_page_is_self_contained_and_escapes_all_names(run: Run) -> None:
    page = report_of(run).read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!#|data:,)', page.replace("xlink:href", "href"))
    for name in (*NAMES, "<b>", "&amp;", "<i>"):
        assert name in text_of(report_of(run)), name
    assert "<b>" not in re.sub(r'<b style="left:[\d.]+%">', "", page)
    assert "#0a000" not in page  # every color is one of the style sheet's
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_page_is_the_same_each_time_and_of_a_loaded_run(run: Run, moved: Callable[[], Path]) -> None:
    folder = moved()
    before = report_of(run).read_bytes()
    again = load(folder).report()
    assert again == folder / "report.html"
    assert again.read_bytes() == before.replace(b"<bdi>run</bdi>", b"<bdi>copy</bdi>").replace(b"<title>run", b"<title>copy")


def test_page_without_the_data_says_why(moved: Callable[[], Path], tmp_path: Path) -> None:
    folder = moved()
    recipe = (folder / "recipe.yaml").read_text(encoding="utf-8")
    (folder / "recipe.yaml").write_text(recipe.replace("test.csv", "gone.csv"), encoding="utf-8")
    seen = text_of(load(folder).report(tmp_path / "page.html"))
    assert "Answers cannot be shown row by row" in seen
    assert "no file 'gone.csv'" in seen
    assert seen.count("Not shown: ") == 7 + 2  # answers of each task; labels; importance
    assert "Learning curve" in seen


def test_page_of_rows_that_are_split_otherwise_judges_none(moved: Callable[[], Path], tmp_path: Path) -> None:
    folder = moved()
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    record["parts"] = dict.fromkeys(record["parts"], "0" * 64)
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    assert "rows held out now may have been learned from" in text_of(load(folder).report(tmp_path / "page.html"))


def test_page_tells_what_compare_found(moved: Callable[[], Path]) -> None:
    folder = moved()
    told = {"alone": 0.5, "together": 0.4, "change": -20.0, "change_low": -30.0, "change_high": -10.0, "n_seeds": 2}
    open_still = {"task": "visits", "verdict": "can't tell", **told, "change_high": 5.0}
    verdicts = [{"task": SCRIPT, "verdict": "helped", **told}, open_still]
    result = {"verdicts": verdicts, "delta_m": {"by_metric": 1.5, "by_task": 2.5}, "delta_m_of_seeds": [[1.0, 2.0], [2.0, 3.0]]}
    compared = {
        "alone": {"name": "alone", "verdicts": []},
        "candidates": [{"name": "run", **result}, {"name": "ple", **result}],
        "trees": None,
        "seeds": [0, 1],
        "judged_on": "test",
        "picks": {SCRIPT: "ple", "visits": "alone"},
        "left_out": {"mtan": "it failed"},
        "notes": ["a careful note"],
    }
    (folder / "compare.json").write_text(json.dumps(compared), encoding="utf-8")
    seen = text_of(load(folder).report())
    assert "Sharing helped: its loss is 20.0 % lower than alone." in seen
    assert "this run's recipe: Delta-m +2.5 %" in seen
    for words in ("ple: Delta-m", "ple for <script>", "a careful note", "mtan: it failed"):
        assert words in seen, words
    (folder / "compare.json").write_text("{", encoding="utf-8")
    assert Evidence.of(load(folder), "run").compared == {}


def test_runs_side_by_side(run: Run, moved: Callable[[], Path]) -> None:
    folder = moved()
    recipe = (folder / "recipe.yaml").read_text(encoding="utf-8")
    (folder / "recipe.yaml").write_text(recipe.replace("balance: 0.0", "balance: 0.01"), encoding="utf-8")
    out = done("report", run.folder or "", folder)
    assert out.startswith("saved in ")
    assert run.folder is not None
    seen = text_of(run.folder / "comparison.html")
    assert "2 runs compared" in seen
    assert "sharing.balance 0.0 0.01" in seen
    assert "Gain against run" in seen
    assert "+0.0 % can't tell" in seen  # the same network on the same rows
    assert "Learning curves" in seen


def test_mistakes(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run.folder is not None
    assert "no such run folder" in mistake("report", tmp_path / "nowhere")
    assert "no such folder" in mistake("report", run.folder, "--out", tmp_path / "none" / "page.html")
    assert "is a folder" in mistake("report", run.folder, "--out", tmp_path)
    (tmp_path / "mine.html").write_text("<p>mine</p>")
    assert "it is no report" in mistake("report", run.folder, "--out", tmp_path / "mine.html")
    assert (tmp_path / "mine.html").read_text() == "<p>mine</p>"
    with pytest.raises(PolytaskError, match="lies in no folder"):
        run.keep("visits").report()
    real = builtins.__import__

    def without_jinja(name: str, *given: Any, **more: Any) -> Any:
        if name == "polytask.report.page":
            raise ModuleNotFoundError("No module named 'jinja2'", name="jinja2")
        return real(name, *given, **more)

    monkeypatch.setattr(builtins, "__import__", without_jinja)
    assert "needs the package 'jinja2'. Install it: pip install \"polytask[report]\"" in mistake("report", run.folder)


def test_notebook_shows_a_run_and_its_scores(run: Run) -> None:
    for shown in (run._repr_html_(), run.scores()._repr_html_()):
        assert html.escape(SCRIPT) in shown
        assert "<script" not in shown
    assert "Run of 7 tasks" in run._repr_html_()
