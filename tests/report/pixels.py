"""A small run with every kind of answer at every pixel beside a task of whole rows, from files with names that are hard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from polytask import Recipe, Run, fit
from tests.report.runs import SCRIPT

SIDE, N_ROWS = 12, 90
HARD = "<i>&amp; 'x'"  # a folder of files
CODES = (0, 3, 9)


def made_up(folder: Path) -> Run:
    """Write squares and circles in color with masks, depths (nothing in the first line) and shapes, and fit a run to them."""
    draw, (down, across) = np.random.default_rng(0), np.mgrid[:SIDE, :SIDE]
    (folder / HARD).mkdir()
    rows = []
    for row in range(N_ROWS):
        circle, y, x, half = row % 2, *draw.integers(4, 8, 2), draw.integers(2, 4)
        there = (down - y) ** 2 + (across - x) ** 2 <= half**2 if circle else np.maximum(abs(down - y), abs(across - x)) <= half
        image = draw.integers(0, 60, (SIDE, SIDE, 3))
        image[there] += np.array([180, 90, 0] if circle else [0, 60, 190])
        depth = np.where(there, 2.0, 5.0).astype(np.float32)
        depth[0] = np.nan
        Image.fromarray(image.astype(np.uint8)).save(folder / HARD / f"photo{row}.png")
        Image.fromarray(np.where(there, CODES[1 + circle], 0).astype(np.uint8)).save(folder / HARD / f"mask{row}.png")
        np.save(folder / HARD / f"depth{row}.npy", depth)
        mask = None if row % 10 == 3 else f"{HARD}/mask{row}.png"
        rows.append((f"{HARD}/photo{row}.png", draw.normal(), mask, f"{HARD}/depth{row}.npy", "circle" if circle else SCRIPT))
    pd.DataFrame(rows, columns=["photo", "noise", SCRIPT, "depth", "shape"]).to_csv(folder / "labels.csv", index=False)
    tasks = [
        {"kind": "segmentation", "name": SCRIPT},
        {"kind": "dense_regression", "name": "depth"},
        {"kind": "reconstruction", "name": "again", "column": "photo"},
        {"kind": "binary", "name": "shape"},
    ]
    recipe = Recipe(
        sources=[folder / "labels.csv"],
        tasks=tasks,
        columns={"photo": "image"},
        encoder={"kind": "cnn", "widths": [4, 6], "vector": 8},
        trainer={"epochs": 2, "device": "cpu", "best": "mean"},
    )
    return fit(recipe, folder / "run")
