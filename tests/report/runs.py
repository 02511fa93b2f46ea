"""A small run with a task of every kind, and names that would break a page which did not escape them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from polytask import CSV, Binary, Count, Multiclass, Multilabel, Ordinal, Quantile, Recipe, Regression, Run, Trainer, fit

SCRIPT = "<script>alert('x')</script>"
QUOTED = "\"quoted\" & 'said'"
LONG = "a_very_long_name_without_a_single_space_" * 4
CHINESE = "价格预测"
EMOJI = "🏠 house 🏡"
HEBREW = "מחיר הבית"
NAMES = (SCRIPT, QUOTED, LONG, CHINESE, EMOJI, HEBREW)
N_TRAINING, N_TEST = 240, 1500


def rows(n_rows: int, seed: int) -> pd.DataFrame:
    """Rows whose labels follow from ``area`` and the category, some of them missing; ``noise`` tells nothing."""
    draw = np.random.default_rng(seed)
    area, noise = draw.normal(size=(2, n_rows))
    kind = draw.choice([SCRIPT, CHINESE, "plain"], n_rows)
    signal = area + (kind == "plain")
    return pd.DataFrame(
        {
            EMOJI: area,
            "noise": noise,
            HEBREW: np.where(draw.random(n_rows) < 0.1, None, kind),
            SCRIPT: 1000 * (signal + draw.normal(0, 0.2, n_rows)),
            QUOTED: np.where(draw.random(n_rows) < 0.3, np.nan, (signal > 0.5).astype(float)),
            LONG: np.digitize(signal, [-1, 0, 1]),
            CHINESE: np.array(["<b>", "&amp;", "c"])[np.digitize(area, [-0.5, 0.5])],
            "visits": draw.poisson(np.exp(0.5 * signal)),
            "spread": signal + draw.normal(size=n_rows),
            "tags": [", ".join(np.array(["red", "<i>"])[[a > 0, s > 0]]) for a, s in zip(area, signal, strict=True)],
        }
    )


def made_up(folder: Path) -> Run:
    """Write the rows into a folder, and fit a run there."""
    rows(N_TRAINING, 0).to_csv(folder / "houses.csv", index=False)
    rows(N_TEST, 1).to_csv(folder / "test.csv", index=False)
    recipe = Recipe(
        sources=[CSV(folder / "houses.csv", test=folder / "test.csv")],
        tasks=[
            Regression(SCRIPT),
            Binary(QUOTED, calibration="temperature"),
            Ordinal(LONG),
            Multiclass(CHINESE),
            Count("visits"),
            Quantile("spread"),
            Multilabel("tags"),
        ],
        encoder={"kind": "tabm", "width": 16},
        sharing={"kind": "mmoe", "experts": "mlp"},
        balancer="dwa",
        trainer=Trainer(epochs=3, device="cpu"),
    )
    return fit(recipe, folder / "run")
