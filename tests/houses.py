"""A small table of made-up houses, for tests that need no real data."""

from __future__ import annotations

import numpy as np
import pandas as pd


def houses(n_rows: int = 400, seed: int = 0) -> pd.DataFrame:
    """Sales with a price, a living area, a condition (1 to 5) and a waterfront flag that follow from the other columns."""
    draw = np.random.default_rng(seed)
    area = draw.uniform(50, 300, n_rows)
    age = draw.integers(0, 100, n_rows)
    suburb = draw.choice(["north", "south", "lake"], n_rows)
    waterfront = (suburb == "lake") & (draw.random(n_rows) < 0.6)
    condition = np.clip(5 - age // 25 + draw.integers(0, 2, n_rows), 1, 5)
    price = 1000 * (area * 3 + 200 * waterfront + 20 * condition + draw.normal(0, 20, n_rows))
    frame = {
        "id": np.arange(n_rows),
        "rooms": np.round(area / 25).astype(int),
        "age": age,
        "suburb": suburb,
        "lot": area * 4 + draw.normal(0, 50, n_rows),
        "sold": pd.Timestamp("2014-05-01") + pd.to_timedelta(draw.integers(0, 365, n_rows), unit="D"),
        "sqft_living": area,
        "condition": condition,
        "waterfront": waterfront.astype(int),
        "price": price,
    }
    return pd.DataFrame(frame)
