from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.latency import COLUMNS, houses, milliseconds


def test_a_call_is_timed_by_the_clock_and_on_the_processor() -> None:
    asleep = milliseconds(lambda _: time.sleep(0.002), [None] * 3)
    assert asleep.shape == (3, 2)
    assert (asleep[:, 0] >= 2).all()
    assert (asleep[:, 1] < asleep[:, 0]).all()


def test_there_are_houses_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYTASK_DATA", str(tmp_path))
    name, frame = houses()
    assert name == "made-up houses"
    assert set(COLUMNS) < set(frame)
