"""How long one row's answer takes: the exported networks through polytask's reader, and ``run.predict``. One thread.

Run: python -m benchmarks.latency [--calls 500] [--epochs 2]. It reads kc_house where POLYTASK_DATA or ../shared/data has it,
and made-up houses elsewhere. ``network`` is the exported network alone, on inputs that are made already. On a busy machine only
the time on the processor says something.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from polytask import Binary, Count, Frame, Ordinal, Recipe, Regression, Run, Trainer, fit
from polytask.export.serving import ExportedModel
from polytask.tables import as_table

ROOT = Path(__file__).parents[1]
COLUMNS = ["price", "sqft_living", "grade", "waterfront", "bedrooms"]


def houses() -> tuple[str, pd.DataFrame]:
    """The rows, and what they are called."""
    data = Path(os.environ.get("POLYTASK_DATA") or ROOT.parent / "shared" / "data") / "kc_house" / "kc_house_data.csv"
    if data.is_file():
        frame = pd.read_csv(data).drop(columns="id")
        frame["date"] = pd.to_datetime(frame["date"].str[:8])
        return "kc_house", frame
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(draw.normal(size=(5000, 15)), columns=[f"x{i}" for i in range(15)])
    frame["date"] = pd.Timestamp("2014-05-01") + pd.to_timedelta(draw.integers(0, 365, 5000), unit="D")
    frame["price"], frame["sqft_living"] = np.exp(frame["x0"]), frame["x1"] + frame["x2"]
    frame["grade"], frame["bedrooms"] = draw.integers(3, 12, 5000), draw.integers(0, 6, 5000)
    frame["waterfront"] = (frame["x3"] > 1).astype(int)
    return "made-up houses", frame


def trained(frame: pd.DataFrame, epochs: int) -> Run:
    """A run with the default network."""
    tasks = [Regression("price"), Regression("sqft_living"), Ordinal("grade"), Binary("waterfront"), Count("bedrooms")]
    return fit(Recipe(sources=[Frame(frame)], tasks=tasks, trainer=Trainer(epochs=epochs, device="cpu")))


def milliseconds(call: Callable[[Any], Any], rows: list[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The time of a call for each row by the clock, and on the processor, ``[N, 2]``, after ten to warm up."""
    for row in rows[:10]:
        call(row)
    times = []
    for row in rows:
        began = time.perf_counter(), time.process_time()
        call(row)
        times.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    return 1000 * np.array(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    name, frame = houses()
    run = trained(frame, asked.epochs)
    new = frame.drop(columns=COLUMNS).head(asked.calls)
    frames = [new[i : i + 1] for i in range(len(new))]
    cells = [[row] for row in new.to_dict("records")]
    print(f"torch {torch.__version__}, one thread, one row of {name}, {len(COLUMNS)} tasks, {len(new)} calls")
    print(f"{'':<34}{'median ms':>10}{'p95 ms':>10}{'median CPU ms':>16}")

    def line(what: str, call: Callable[[Any], Any], rows: list[Any]) -> None:
        times = milliseconds(call, rows)
        (median, cpu), high = np.median(times, 0), np.quantile(times[:, 0], 0.95)
        print(f"{what:<34}{median:>10.2f}{high:>10.2f}{cpu:>16.2f}", flush=True)

    with tempfile.TemporaryDirectory() as place:
        for target in ("onnx", "torch"):
            run.export(Path(place) / target, target)
            model = ExportedModel(Path(place) / target, threads=1)
            line(f"{target}, a list of one mapping", model.predict, cells)
            line(f"{target}, a frame of one row", model.predict, frames)
            line(f"{target}, network", model.outputs, [model.inputs(as_table(row)) for row in frames])
    line("run.predict, a frame of one row", run.predict, frames)


if __name__ == "__main__":
    main()
