"""A training that is stopped, and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from polytask import Recipe, Run, fit, resume
from polytask.training import Epoch


def stopped(asked: Recipe, place: str | Path, *epochs: int, again: Recipe | None = None) -> None:
    """Train into a folder, be stopped after the first of these epochs, and go on until each of the others."""
    for turn, last in enumerate(epochs):

        def stop(epoch: Epoch, last: int = last) -> None:
            if epoch.epoch == last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            resume(place, again, on_epoch=stop) if turn else fit(asked, place, on_epoch=stop)


def same_as_whole(asked: Recipe, place: str | Path, *epochs: int, again: Recipe | None = None) -> Run:
    """A training that is stopped after these epochs gives, bit for bit, what one gives that is not; that one is returned.

    Args:
        asked: What is trained.
        place: Where.
        epochs: After which it is stopped, and goes on.
        again: The recipe once more, where its file does not hold all of it.
    """
    stopped(asked, place, *epochs, again=again)
    gone_on, whole = resume(place, again), fit(asked)
    for key, value in whole.bundle.model.state_dict().items():
        assert torch.equal(gone_on.bundle.model.state_dict()[key], value), key
    for losses in ("training", "validation"):
        assert [epoch[losses] for epoch in gone_on.history] == [epoch[losses] for epoch in whole.history]
    return whole
