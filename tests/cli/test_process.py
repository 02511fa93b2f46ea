"""The command as a process of its own: how fast help comes, what it loads, how it ends."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import write_houses

MODULE = [sys.executable, "-m", "polytask"]
SECONDS_OF_HELP = 0.4


def test_help_comes_at_once() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    n_times = 4
    for _ in range(n_times):
        subprocess.run([*MODULE, "--help"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent / n_times < SECONDS_OF_HELP


@pytest.mark.parametrize("words", [["--help"], ["fit", "--help"], ["--version"], ["list", "balancers"], ["fitt"]])
def test_nothing_heavy_is_loaded_before_it_is_needed(words: list[str]) -> None:
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", *MODULE[1:], *words], capture_output=True, text=True, check=False
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in answer.stderr.splitlines()}
    assert "typer" in loaded
    # typer itself loads pydantic to read the options of a command.
    light = {"pydantic"} if words != ["--help"] else set()
    assert not loaded & ({"torch", "pydantic", "pyarrow", "numpy", "sklearn", "scipy", "narwhals"} - light)


def test_a_mistake_in_a_task_is_told_before_anything_heavy_is_loaded() -> None:
    words = ["fit", "houses.csv", "--task", "a:b:c"]
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", *MODULE[1:], *words], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 2
    assert "| torch\n" not in answer.stderr
    assert "error: --task a:b:c: not a task" in answer.stderr


@pytest.mark.parametrize("words", ["list", "schema", "--help"])
def test_a_reader_that_had_enough_is_no_error(words: str) -> None:
    command = f"{' '.join(MODULE)} {words} | head -c 1"
    answer = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert len(answer.stdout) == 1
    assert answer.stderr == ""


def test_an_interrupted_training_is_saved_and_says_how_to_go_on(tmp_path: Path) -> None:
    write_houses(tmp_path)
    words = ["fit", "houses.csv", "--task", "price", "--epochs", "1000000", "--set", "trainer.patience=never", "--out", "run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*MODULE, *words], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch "):
                break
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == f"stopped by SIGINT; the training is saved: `polytask resume {tmp_path / 'run'}` goes on with it\n"
    assert (tmp_path / "run/checkpoints/state.safetensors").is_file()


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_recipe_in_a_file_is_utf8_whatever_the_terminal_speaks(encoding: str, tmp_path: Path) -> None:
    lines = ["größe,价格", *(f"{i},{i}.5" for i in range(30))]
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    words = [*MODULE, "init", "t.csv", "--task", "价格"]
    answer = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert "\n  name: 价格\n" in answer.stdout.decode("utf-8")
    assert "task '价格' is taken for regression" in answer.stderr.decode("utf-8")
