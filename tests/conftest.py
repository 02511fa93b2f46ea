"""What every test starts from: shapes checked, one thread, toy plug-ins known, real data found or skipped."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import torch

from tests.shapes import check_shapes

ROOT = Path(__file__).parents[1]

check_shapes()
torch.set_num_threads(1)
# A shell starts its background jobs, pytest among them, with Ctrl-C ignored; tests and the processes they start send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# How long an example takes says nothing about a property, and a failure must come back on the next run.
hypothesis.settings.register_profile("polytask", deadline=None, derandomize=True)
hypothesis.settings.load_profile("polytask")

for toy in sorted((ROOT / "tests" / "plugins").glob("[!_]*.py")):
    importlib.import_module(f"tests.plugins.{toy.stem}")


def data_root() -> Path:
    """The folder that holds one folder per real data set; it may be absent."""
    return Path(os.environ.get("POLYTASK_DATA") or ROOT.parent / "shared" / "data")


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """``shared_data("kc_house")`` is the folder of that data set; the test is skipped where it is absent."""

    def find(name: str) -> Path:
        folder = data_root() / name
        if not folder.is_dir():
            pytest.skip(f"the data set {name!r} is not in {data_root()}; POLYTASK_DATA names the folder that holds it")
        return folder

    return find
