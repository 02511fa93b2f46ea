"""Trains in forked processes and kills them with SIGKILL at random moments; run by test_checkpoint.

python killing.py FOLDER N_KILLS
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]


def train(asked: Path, out: Path) -> int:
    """Fit, or go on where there is something to go on with; in a process of its own."""
    from polytask import Recipe, fit, resume

    child = os.fork()
    if child:
        return child
    if out.exists():
        resume(out)
    else:
        fit(Recipe.from_yaml(asked), out)
    os._exit(0)


def seconds_of_one(asked: Path, out: Path) -> float:
    began = time.perf_counter()
    os.waitpid(train(asked, out), 0)
    return time.perf_counter() - began


def check_there(out: Path) -> int:
    """Whatever the moment: a run, or a training that says how to go on. The step it is at."""
    from polytask import PolytaskError, load
    from polytask.checkpoint import STATE, read

    told = ""
    try:
        load(out)
    except PolytaskError as error:
        told = str(error)
    assert not told or "polytask resume" in told or "no such run folder" in told, told
    state = out / "checkpoints" / STATE
    return int(read(state)["update"]["step"]) if state.exists() else -1


def main() -> None:
    folder, n_kills = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    # What is imported here need not be imported by every child. Nothing may run: threads do not outlive a fork.
    for name in ("tests.plugins.famo_like", "polytask.experiment", "polytask.heads.linear", "torch._dynamo"):
        importlib.import_module(name)
    asked = folder / "asked.yaml"
    importlib.import_module("polytask").Recipe.from_yaml(asked)
    longest = seconds_of_one(asked, folder / "run-0")
    draw = random.Random(0)
    killed, finished, steps = 0, 1, set()
    while killed < n_kills or (folder / f"run-{finished}").exists():
        out = folder / f"run-{finished}"
        child = train(asked, out)
        if killed < n_kills:
            time.sleep(draw.uniform(0, 1) * longest)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            killed += 1
            steps.add(check_there(out))
        else:
            assert os.WEXITSTATUS(status) == 0, f"the training failed after {killed} kills"
            finished += 1
    sys.stdout.write(json.dumps({"killed": killed, "finished": finished, "steps": len(steps), "longest": longest}) + "\n")


if __name__ == "__main__":
    main()
