"""Steps that do not fit in memory are done in pieces, and the largest that fit are found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from polytask import Frame, PolytaskError, Recipe, fit, load, memory, resume
from polytask.batch import Batch
from polytask.fitting import first_steps, with_rows_that_fit
from polytask.memory import free_memory
from polytask.model import MultiTaskModel
from polytask.preparation import prepare
from polytask.training import Epoch, Trainer
from polytask.update import OutOfMemory, is_out_of_memory

N = 100


def recipe(**trainer: Any) -> Recipe:
    draw = np.random.default_rng(0)
    scans = draw.integers(0, 256, (N, 8, 8)).astype(np.uint8)
    frame = {"scan": scans, "level": scans.mean((1, 2)), "bright": scans[:, 0, 0] > 128}
    usual = {"epochs": 2, "batch_size": 32, "device": "cpu"}
    return Recipe(
        sources=[Frame(frame)],
        tasks=[{"kind": "regression", "name": "level"}, {"kind": "binary", "name": "bright"}],
        encoder={"kind": "cnn", "widths": [4, 4], "vector": 8},
        balancer="upgrad",
        augmentation={"shift": 0.1},
        trainer={**usual, **trainer},
    )


@contextmanager
def room_for(n_rows: int) -> Iterator[list[int]]:
    """A training finds no memory for more rows than these at once; the rows of those that were tried."""
    tried: list[int] = []
    real = MultiTaskModel.losses

    def losses(self: MultiTaskModel, batch: Batch, **options: bool) -> dict[str, Tensor]:
        if torch.is_grad_enabled():
            tried.append(batch.n_rows)
            if batch.n_rows > n_rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(self, batch, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MultiTaskModel, "losses", losses)
        yield tried


def assert_alike(one: Any, other: Any) -> None:
    for key, value in one.bundle.model.state_dict().items():
        assert torch.equal(other.bundle.model.state_dict()[key], value), key
    assert [epoch["training"] for epoch in one.history] == [epoch["training"] for epoch in other.history]


def test_a_step_that_does_not_fit_is_that_of_as_many_pieces_as_it_takes(tmp_path: Path) -> None:
    asked = fit(recipe(accumulate=4))
    with room_for(8) as tried:
        found = fit(recipe())
    assert tried[:5] == [32, 16, 8, 8, 8]
    assert max(tried[3:]) == 8, "what was found is kept"
    assert_alike(asked, found)
    told = "batches of 32 rows went through the network in 4 pieces, for they did not fit whole"
    assert told in found.record["notes"]
    assert not any("pieces" in note for note in asked.record["notes"])

    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    with room_for(8), pytest.raises(KeyboardInterrupt):
        fit(recipe(checkpoint=0), tmp_path / "run", on_epoch=stop)
    gone_on = resume(tmp_path / "run", recipe(checkpoint=0))  # where there is room again
    assert_alike(asked, gone_on)
    assert told in gone_on.record["notes"]


def test_where_not_even_a_row_fits_it_is_told() -> None:
    told = r"the training does not fit in memory, a single row at a time\. Found: CUDA out of memory\. Tried .* Take a smaller"
    with room_for(0) as tried, pytest.raises(PolytaskError, match=told):
        fit(recipe())
    assert tried == [32, 16, 8, 4, 2, 1]
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


def test_the_largest_batch_that_fits_is_found_by_trying() -> None:
    asked = recipe(batch_size="fits")
    prepared = prepare(asked)
    with room_for(20):
        steps = first_steps(asked, prepared)
        assert steps._tried(64) == 16
        assert steps._tried(8) == 8
    with room_for(0), pytest.raises(OutOfMemory):
        steps._tried(64)


def test_the_largest_batch_that_fits_is_told_from_two_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = recipe(batch_size="fits")
    prepared = prepare(asked)
    steps = first_steps(asked, prepared)
    peaks = {n: steps.peak(n) for n in (32, 64)}
    for n in peaks:
        monkeypatch.setattr(memory, "free_memory", lambda n=n: round(1.05 * peaks[n] / memory.SHARE))
        assert steps.rows_that_fit(2048) == n, "what is told of large steps is what they take"
    assert steps.rows_that_fit(20) == 16
    monkeypatch.setattr(memory, "free_memory", lambda: 0)
    assert steps.rows_that_fit(2048) == 1
    monkeypatch.setattr(memory, "free_memory", lambda: None)
    assert with_rows_that_fit(asked, prepared).trainer.batch_size == 32, "the usual one"
    assert Trainer(batch_size="fits").most_rows(16_000) == 1600
    assert Trainer(batch_size="fits").most_rows(10**6) == 4096


def test_a_run_has_the_batch_size_that_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = recipe(batch_size="fits", checkpoint=0)
    prepared = prepare(asked)
    peak = first_steps(asked, prepared).peak(16)
    monkeypatch.setattr(memory, "free_memory", lambda: round(1.05 * peak / memory.SHARE))

    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(asked, tmp_path / "run", on_epoch=stop)
    monkeypatch.setattr(memory, "free_memory", lambda: 10 * peak)
    run = resume(tmp_path / "run", asked)
    assert run.recipe.trainer.batch_size == load(tmp_path / "run").recipe.trainer.batch_size == 16
    assert_alike(fit(recipe(batch_size=16)), run)
    with pytest.raises(PolytaskError, match=r"trainer\.batch_size"):
        recipe(batch_size="most")


def test_what_is_free_is_less_than_there_is() -> None:
    free = free_memory()
    assert free is None or 0 < free < 2**50
