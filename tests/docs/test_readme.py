"""The README's code runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.houses import houses

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"(?:<!-- test: (\w+) -->\n)?```(\w*)\n(.*?)```", re.DOTALL)


def blocks() -> list[tuple[str, str, str]]:
    return BLOCK.findall(README.read_text(encoding="utf-8"))


def make_data(folder: Path) -> None:
    houses(300).to_csv(folder / "houses.csv", index=False)
    houses(50, seed=1).to_csv(folder / "houses-test.csv", index=False)
    sold = houses(200, seed=3)
    sold.assign(days=sold["age"] + sold["lot"] / 10).to_csv(folder / "houses-sold.csv", index=False)
    labels = ["price", "condition"]
    houses(20, seed=2).drop(columns=labels).to_csv(folder / "houses-new.csv", index=False)
    for seed, name in enumerate(("student-mat", "student-por")):
        frame = houses(150, seed=seed)[["rooms", "age", "suburb", "condition"]]
        frame["G3"] = np.clip(frame["rooms"] + frame["condition"], 0, 20)
        frame.to_csv(folder / f"{name}.csv", index=False)
    make_photos(folder)


def make_photos(folder: Path) -> None:
    """photos.csv: squares on noise with their kind, mask and depth; photos-new.csv without these."""
    draw, rows = np.random.default_rng(0), []
    (folder / "img").mkdir()
    for row in range(60):
        side, (top, left) = draw.integers(3, 7), draw.integers(0, 6, 2)
        mask = np.zeros((12, 12), np.uint8)
        mask[top : top + side, left : left + side] = 1
        Image.fromarray((draw.integers(0, 60, (12, 12)) + 150 * mask).astype(np.uint8)).save(folder / f"img/{row}.png")
        Image.fromarray(mask).save(folder / f"img/{row}-mask.png")
        np.save(folder / f"img/{row}.npy", 5.0 - mask * side / 2)
        kind = "large" if side > 4 else "small"
        rows.append({"photo": f"img/{row}.png", "kind": kind, "mask": f"img/{row}-mask.png", "depth": f"img/{row}.npy"})
    pd.DataFrame(rows).to_csv(folder / "photos.csv", index=False)
    pd.DataFrame(rows)[["photo"]][:5].to_csv(folder / "photos-new.csv", index=False)


def scripts() -> list[tuple[str, str]]:
    """What runs by itself: the commands on one kind of data go on from one another, a block of Python does not."""
    marked = [(mark, language, text) for mark, language, text in blocks() if mark]
    commands: dict[str, str] = {}
    for mark, language, text in marked:
        if language == "sh":
            commands[mark] = commands.get(mark, "") + text
    return [("sh", text) for text in commands.values()] + [(name, text) for _, name, text in marked if name != "sh"]


def test_every_block_but_the_make_commands_is_run() -> None:
    unmarked = [text for mark, _, text in blocks() if not mark]
    assert len(unmarked) == 1
    assert unmarked[0].startswith("make demo")


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(scripts())))
def test_blocks_run(index: int, tmp_path: Path) -> None:
    language, text = scripts()[index]
    make_data(tmp_path)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    command = ["bash", "-euc", text] if language == "sh" else [sys.executable, "-W", "error", "-c", text]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
