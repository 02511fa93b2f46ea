from __future__ import annotations

import base64
import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from polytask import Run, load
from polytask.fitting import score
from polytask.images import opened
from polytask.report.evidence import Evidence
from polytask.report.gallery import CLASSES, FIRST, SHOWN, SHOWN_SMALL, color_of_class, ranked
from polytask.report.words import told
from tests.report.pixels import CODES, HARD
from tests.report.runs import SCRIPT

CARD = re.compile(r'<div class="card">(.*?)</p></div>', re.DOTALL)
IMG = re.compile(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)"')
COLORS = {code: tuple(bytes.fromhex(color_of_class(place)[1:])) for place, code in enumerate(CODES)}


@pytest.fixture(scope="module")
def page(pixels: Run) -> str:
    assert pixels.folder is not None
    return (pixels.folder / "report.html").read_text(encoding="utf-8")


def gallery(page: str, number: int) -> list[tuple[str, dict[str, np.ndarray[Any, Any]]]]:
    """Of the task with that number each card's text, and its pictures by what they are."""
    part = page.partition(f'id="task-{number}"')[2].partition(f'id="task-{number + 1}"')[0].partition('id="between"')[0]
    cards = []
    for card in CARD.findall(part):
        found = {html.unescape(alt).partition(",")[0]: base64.b64decode(data) for data, alt in IMG.findall(card)}
        pictures = {name: np.asarray(opened(data, 10**6)) for name, data in found.items()}
        cards.append((html.unescape(re.sub("<[^>]+>", " ", IMG.sub("", card))), pictures))
    return cards


def row_of(text: str) -> int:
    """Which row of the file a card is of."""
    found = re.search(r"row (\d+) of labels · (.*?/photo\d+\.png)", text)
    assert found is not None, text
    assert found[2] == f"{HARD}/photo{int(found[1]) - 1}.png"
    return int(found[1]) - 1


def test_every_task_is_shown_by_its_rows(page: str) -> None:
    sizes = [(len(cards), {len(pictures) for _, pictures in cards}) for cards in (gallery(page, n) for n in range(1, 5))]
    n_shown, n_test = sum(SHOWN.values()), 14
    assert sizes == [(n_shown, {4}), (n_shown, {4}), (n_shown, {3}), (n_test, {1})]
    assert "<script" not in page
    assert HARD not in page
    assert HARD in html.unescape(page)
    seen = html.unescape(re.sub("<[^>]+>", " ", page))
    for words in (
        "Confusion of pixels",
        "Overlap of each class",
        "no label",
        "true and answered",
        "difference of brightness",
        "Predicted against true",
        "pixels in cells",
        "Answered and true areas overlap by",
    ):
        assert words in seen, words
    assert "Not shown" not in seen
    assert "Correlation of labels" not in seen, "there is one task of whole rows only"


def test_pictures_are_what_they_are_said_to_be(page: str, pixels: Run) -> None:
    assert pixels.folder is not None
    home = pixels.folder.parent
    answers = pixels.predict(home / "labels.csv").to_pylist()
    labels = pd.read_csv(home / "labels.csv")
    for text, pictures in gallery(page, 1):
        row = row_of(text)
        photo, mask = (Image.open(home / HARD / f"{name}{row}.png") for name in ("photo", "mask"))
        with photo, mask:
            assert np.array_equal(pictures["image"], np.asarray(photo))
            true, answered = np.asarray(mask), np.asarray(answers[row][SCRIPT]).reshape(mask.size)
        for name, codes in (("true", true), ("answered", answered)):
            assert [tuple(color) for color in pictures[name].reshape(-1, 4)] == [(*COLORS[c], 255) for c in codes.flat]
        assert np.array_equal(pictures["difference"][..., 3] > 0, true != answered)
        right = np.mean(true == answered)
        assert f"pixel_accuracy {told(right)}" in text
        assert isinstance(labels[SCRIPT][row], str)
    for text, pictures in gallery(page, 2):
        depth = np.asarray(answers[row_of(text)]["depth"], float).reshape(pictures["true"].shape[:2])
        assert (pictures["true"][0, :, 3] == 0).all(), "nothing is drawn where there is no label"
        error = float(re.search(r"abs_error ([\d.]+)", text)[1])  # type: ignore[index]
        wanted = np.load(home / HARD / f"depth{row_of(text)}.npy")
        assert error == pytest.approx(np.nanmean(np.abs(depth - wanted)), rel=0.01)
    for text, pictures in gallery(page, 3):
        again = np.asarray(answers[row_of(text)]["again"]).reshape(pictures["answered"].shape)
        assert np.array_equal(pictures["answered"], again)


def test_what_is_kept_of_answers_are_sums(pixels: Run) -> None:
    evidence = Evidence.of(pixels, "run")
    judged = evidence.judged
    k = len(CODES)
    assert all(set(judged[name].views) == {"statistics"} for name in (SCRIPT, "depth", "again"))
    assert set(judged["shape"].views) == {"probability", "label"}
    assert judged[SCRIPT].views["statistics"].shape == (len(judged[SCRIPT].index), k * k)
    losses = [part.losses for part in judged.values()]
    assert all(np.isfinite(part).all() for part in losses)
    scores = score(pixels.bundle, pixels.prepared().test)
    shown = judged["depth"].scores_of(judged["depth"].scorer, np.arange(len(judged["depth"].index)))
    assert shown.mean() == pytest.approx(scores["depth"].scores["abs_error"].value, rel=1e-6), "as many pixels in each row"
    assert judged["depth"].pixels is not None
    value, true = judged["depth"].pixels
    assert len(value) == len(true) > 1000
    assert set(np.round(true, 3)) == {2.0, 5.0}


def test_a_report_of_several_runs_and_of_a_loaded_one(pixels: Run, tmp_path: Path) -> None:
    assert pixels.folder is not None
    again = load(pixels.folder)
    seen = again.report(tmp_path / "page.html", others=[pixels]).read_text(encoding="utf-8")
    assert "cannot be told apart at" in seen
    assert seen.count("+0.0 %") == 4


def test_ranked_rows_are_each_shown_once_and_in_order() -> None:
    for n in range(1, 40):
        losses = np.random.default_rng(n).permutation(n).astype(float)
        losses[losses == n - 1] = np.nan
        for counts in (SHOWN, SHOWN_SMALL):
            shown = ranked(losses, counts)
            every = np.concatenate([*shown.values()])
            assert len(set(every.tolist())) == len(every) == min(n, sum(counts.values()))
            assert np.isnan(losses[shown["Worst"][0]]), "what cannot be told is the worst"
            told_losses = {name: np.nan_to_num(losses[rows], nan=np.inf) for name, rows in shown.items()}
            if "Best" in told_losses:
                assert told_losses["Best"].max() < told_losses["Worst"].min()
            if n >= 20:
                assert abs(np.mean(told_losses["Median"]) - (n - 1) / 2) <= 1
    colors = [color_of_class(code) for code in range(22)]
    assert len(set(colors)) == 22
    assert {FIRST, *CLASSES} <= set(colors)
