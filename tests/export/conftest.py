"""A run that has a bit of everything, exported once to ONNX, and one of two files with different columns, once to torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from polytask import (
    CSV,
    Binary,
    Count,
    Frame,
    Multiclass,
    Multilabel,
    Ordinal,
    Quantile,
    Recipe,
    Regression,
    Run,
    Table,
    TabM,
    Trainer,
    fit,
)
from tests.houses import houses

TASKS = (
    Regression("price", transform="log1p"),
    Regression("sqft_living", transform="quantile"),
    Ordinal("condition"),
    Binary("waterfront", threshold="f1", calibration="temperature"),
    Multilabel("tags", threshold="f1"),
    Count("rooms"),
    Quantile("no. of 'lots'", column="lot"),
    Multiclass("made", calibration="temperature"),
    Binary("waterfront: sold", given="waterfront", depends_on=["price"]),
)


def rows(n_rows: int = 150, seed: int = 0) -> pd.DataFrame:
    """Houses with holes in their inputs, and more labels."""
    frame, draw = houses(n_rows, seed), np.random.default_rng(seed)
    frame["tags"] = np.where(frame["age"] > 50, "old, large", np.where(frame["lot"] > 600, "large", ""))
    frame["made"] = draw.choice([1.5, 2.5, 4.0], n_rows)
    frame["waterfront: sold"] = (frame["waterfront"] == 1) & (draw.random(n_rows) < 0.5)
    frame["bright"] = frame["sqft_living"] > 150
    for column, share in {"age": 0.1, "suburb": 0.1, "sold": 0.05}.items():
        frame.loc[draw.random(n_rows) < share, column] = None
    return frame


@pytest.fixture(scope="session")
def run() -> Run:
    trainer = Trainer(epochs=2, device="cpu", optimizer={"lr": 1e-2})
    encoder = Table(width=8, depth=1, embedding_width=4)
    return fit(Recipe(sources=[Frame(rows(), name="houses")], tasks=TASKS, drop=["id"], encoder=encoder, trainer=trainer))


@pytest.fixture(scope="session")
def onnx(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    run.export(folder)
    return folder


@pytest.fixture(scope="session")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Prices with a living area, and conditions without; the files have marks of their own for missing cells."""
    folder = tmp_path_factory.mktemp("apart")
    prices, lakes = rows(100, 1)[["price", "sqft_living", "age", "suburb"]], rows(80, 2)[["condition", "age", "suburb"]]
    prices.to_csv(folder / "prices.csv", index=False, sep=";", na_rep="?")
    lakes.to_csv(folder / "lakes.csv", index=False, na_rep="?")
    sources = [CSV(folder / "prices.csv", missing=("?",)), CSV(folder / "lakes.csv", missing=("?",))]
    recipe = Recipe(
        sources=sources,
        tasks=[Regression("price"), Ordinal("condition")],
        encoder=TabM(width=8, members=2, embedding_width=4),
        trainer=Trainer(epochs=1, device="cpu"),
    )
    return fit(recipe)


@pytest.fixture(scope="session")
def programs(apart: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "torch"
    apart.export(folder, "torch")
    return folder
