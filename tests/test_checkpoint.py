"""Checkpoints: what is written is read back, a crash leaves the last whole one, and training goes on bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from polytask import CSV, Binary, Frame, PolytaskError, Recipe, Regression, Run, Stopped, Table, Trainer, fit, load, resume
from polytask.balancer import Balancer
from polytask.checkpoint import JSON, STATE, Checkpoints, read, write
from polytask.fitting import train_bundle
from polytask.mixing import Mixing, epoch_batches
from polytask.model import outputs_on
from polytask.optimization import Schedule
from polytask.preparation import Prepared, prepare
from polytask.sharing import Sharing
from polytask.task import Task
from polytask.training import Epoch
from tests.houses import houses

N_STEPS = 30  # three epochs of ten


def recipe(**fields: Any) -> Recipe:
    """Three tasks: some labels of one are missing, and most of another, so that some batches have none of it."""
    frame = houses(200)
    frame.loc[::3, "price"] = None
    frame["waterfront"] = frame["waterfront"].where(frame.index % 8 == 0)
    settings: dict[str, Any] = {
        "sources": [Frame(frame)],
        "encoder": Table(width=8, depth=1, dropout=0.3, embedding="plain"),
        "trainer": trainer(),
        "tasks": [Regression("price"), Binary("waterfront"), Regression("sqft_living")],
    }
    return Recipe(drop=["id", "lot"], **(settings | fields))


def trainer(**fields: Any) -> Trainer:
    return Trainer(**{"epochs": 3, "batch_size": 14, "device": "cpu", "schedule": "cosine", "warmup": 0.1, **fields})


def two_sources(**mixing: Any) -> dict[str, Any]:
    """Each with a task of its own, which a batch of the other's rows lacks."""
    sources = [Frame(houses(140), name="a"), Frame(houses(60, seed=1), name="b")]
    tasks = [Regression("price", source="a"), Binary("waterfront", source="b"), Regression("sqft_living")]
    return {"sources": sources, "tasks": tasks, "mixing": mixing}


# What a parametrized kind needs.
FIELDS: dict[str, dict[str, Any]] = {"fixed": {"weights": {"price": 3.0}}, "weighted": {"weights": {"a": 1.0, "b": 2.0}}}
ENCODERS: dict[str, dict[str, Any]] = {
    "batch norm": {"kind": "table", "width": 8, "depth": 2, "normalization": "batch", "dropout": 0.3},
    "periodic": {"kind": "table", "width": 8, "embedding": "periodic"},
    "tabm": {"kind": "tabm", "width": 8, "members": 3, "dropout": 0.3},
    "tabm, batch norm": {"kind": "tabm", "width": 8, "members": 3, "normalization": "batch", "embedding": "plain"},
    **{kind: {"kind": kind} for kind in ("ensemble", "toy_conv", "toy_lstm", "series_ensemble")},
}
OPTIMIZERS = [{"name": "SGD", "lr": 0.05, "momentum": 0.9}, {"name": "AdamW", "lr": 0.01}]
MIXINGS = {
    f"mixing {kind}{'' if joint else ', one source a batch'}": two_sources(kind=kind, joint=joint, **FIELDS.get(kind, {}))
    for kind in get_args(Mixing.model_fields["kind"].annotation)
    for joint in (True, False)
}
TRAINERS = {
    f"{schedule}, {optimizer['name']}, average {average}": trainer(
        schedule=schedule, optimizer=optimizer, average=average, patience=4
    )
    for schedule in get_args(Schedule)
    for optimizer in OPTIMIZERS
    for average in (None, 0.9)
}
SHARINGS = [kind for kind in Sharing.kinds() if Sharing.find(kind).shares]
# Every kind is in one case at least; what does not depend on one another shares cases, for each is several trainings.
CASES: dict[str, dict[str, Any]] = {
    **{
        f"balancer {kind}, sharing {sharing}": {"balancer": {"kind": kind, **FIELDS.get(kind, {})}, "sharing": sharing}
        for kind, sharing in zip(Balancer.kinds(), cycle(SHARINGS), strict=False)
    },
    **{
        f"{settings}, {mixing}, encoder {encoder}": {
            "trainer": TRAINERS[settings],
            "encoder": ENCODERS[encoder],
            **MIXINGS[mixing],
        }
        for settings, mixing, encoder in zip(TRAINERS, cycle(MIXINGS), cycle(ENCODERS), strict=False)
    },
    "sharing soft": {"sharing": "soft"},
    "a tree that is frozen on the way": {"sharing": {"kind": "branching", "steps": 5}},
    "balancer and mixing": {**two_sources(kind="annealed", joint=False), "balancer": "famo_like"},
    "no clipping": {"trainer": trainer(clip=None, checkpoint=0.0)},
    "stages scaled": {"trainer": trainer(scale_stages=True)},
    "best weights per task": {"trainer": trainer(best="task", optimizer={"lr": 0.05})},
    "tasks that end apart": {
        "sharing": "separate",
        "trainer": trainer(schedule="plateau", patience=2, optimizer={"name": "AdamW", "lr": 0.05}),
    },
    "steps in pieces": {"trainer": trainer(accumulate=3), "balancer": "dwa"},
    "steps in pieces that are looked at again": {"trainer": trainer(accumulate=2), "balancer": "famo_like"},
    "bfloat16": {"trainer": trainer(precision="bfloat16")},
}


class StopAfter(Checkpoints):
    """Is asked to stop after some steps."""

    def __init__(self, folder: Path, steps: int) -> None:
        super().__init__(folder, None, {})
        self.left = steps

    def visit(self, state: Callable[[], Mapping[str, Any]]) -> None:
        self.left -= 1
        self.stopping = signal.SIGTERM if self.left == 0 else 0
        super().visit(state)


Trained = tuple[dict[str, Tensor], list[Epoch], list[dict[str, Tensor]]]


def trained(asked: Recipe, checkpoints: Checkpoints | None = None, prepared: Prepared | None = None) -> Trained:
    """The weights, the history but its seconds, and what is predicted for the held-out rows."""
    prepared = prepared or prepare(asked)
    bundle, history = train_bundle(asked, prepared, checkpoints=checkpoints)
    outputs = outputs_on(bundle.model, prepared.test)
    views = [fitted.views(outputs[task]) for task, fitted in bundle.tasks.items()]
    return bundle.model.state_dict(), [replace(epoch, seconds=0.0) for epoch in history], views


def assert_same(left: Trained, right: Trained) -> None:
    assert [key for key in right[0] if not torch.equal(left[0][key], right[0][key])] == []
    assert left[1] == right[1]
    for one, two in zip(left[2], right[2], strict=True):
        assert [name for name in two if not torch.equal(one[name], two[name])] == []


def assert_goes_on(make: Callable[[], Recipe], folder: Path, *stops: int) -> None:
    prepared = prepare(make())
    whole = trained(make(), None, prepared)
    for n_steps in stops:
        with pytest.raises(Stopped, match="resume"):
            trained(make(), StopAfter(folder, n_steps), prepared)
    assert_same(trained(make(), Checkpoints(folder, None, {}), prepared), whole)


@pytest.mark.parametrize("case", CASES)
def test_stopped_thrice_is_as_never_stopped(case: str, tmp_path: Path) -> None:
    asked = recipe(**CASES[case])
    assert_goes_on(lambda: asked, tmp_path, 4, 6, 13)  # within an epoch, at its end, within the last
    assert read(tmp_path / STATE)["update"]["step"] == N_STEPS


def test_the_cases_are_told_apart_and_have_batches_without_a_task(tmp_path: Path) -> None:
    plain = trained(recipe())
    mixed, settings = MIXINGS["mixing round_robin, one source a batch"], TRAINERS["cosine, SGD, average 0.9"]
    for fields in (mixed, {"trainer": settings}, {"encoder": ENCODERS["tabm"]}, {"balancer": "dwa"}, {"sharing": "mmoe"}):
        other = trained(recipe(**fields))
        assert other[1] != plain[1]
    prepared = prepare(recipe())
    sizes = {len(prepared.training.batch(rows).tasks) for rows in epoch_batches(prepared.training.n_rows, 14, 0, 0)}
    assert sizes == {2, 3}


@pytest.mark.parametrize("name", ["SGD", "AdamW", "NAdam", "Adagrad", "RMSprop", "ASGD", "Rprop", "Adafactor"])
def test_any_optimizer_goes_on(name: str, tmp_path: Path) -> None:
    options = {"momentum": 0.9} if name == "SGD" else {}
    asked = recipe(trainer=Trainer(epochs=2, batch_size=14, device="cpu", average=None, optimizer={"name": name, **options}))
    assert_goes_on(lambda: asked, tmp_path, 13)


def test_batch_statistics_faults_and_scales_go_on(tmp_path: Path) -> None:
    def broken(output: Tensor, target: Tensor) -> Tensor:
        rows = (output[:, 0] - target).square()
        return torch.where((target > 1) & (len(target) < 20), torch.nan, rows)

    def make() -> Recipe:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(27, 8), nn.BatchNorm1d(8), nn.ReLU())
        tasks = [Regression("price"), Regression("sqft_living", loss=broken), Task.coerce({"kind": "ranking", "name": "age"})]
        return recipe(encoder=network, tasks=tasks)

    assert any(epoch.dropped for epoch in trained(make())[1])
    assert_goes_on(make, tmp_path, 5, 12)


def test_patience_and_the_best_weights_go_on(tmp_path: Path) -> None:
    def make() -> Recipe:
        return recipe(trainer=Trainer(epochs=60, batch_size=14, device="cpu", patience=3, optimizer={"lr": 0.1}))

    history = trained(make())[1]
    best = [epoch.epoch for epoch in history if epoch.best][-1]
    assert best <= len(history) < 60
    assert_goes_on(make, tmp_path, 10 * best + 5)


def test_a_lowered_rate_goes_on(tmp_path: Path) -> None:
    settings = {"schedule": "plateau", "patience": 8, "optimizer": {"name": "SGD", "lr": 2.0}, "average": None}
    asked = recipe(trainer=Trainer(epochs=9, batch_size=14, device="cpu", **settings))
    rates = [epoch.learning_rate for epoch in trained(asked)[1]]
    assert rates[6] < 2.0
    assert_goes_on(lambda: asked, tmp_path, 75)


def test_a_training_that_has_ended_is_not_trained_on(tmp_path: Path) -> None:
    asked = recipe()
    first = trained(asked, Checkpoints(tmp_path, None, {}))
    state = read(tmp_path / STATE)
    assert (state["update"]["step"], state["ended"]) == (N_STEPS, True)
    assert_same(trained(asked, Checkpoints(tmp_path, None, {})), first)


# ---------------------------------------------------------------------------------------------------------------- the file


def test_what_is_written_is_read(tmp_path: Path) -> None:
    shared = torch.arange(6.0).view(2, 3)
    state = {
        "a": shared,
        "b": [shared.T, {"task x/y.z": torch.tensor(3, dtype=torch.int64)}],
        "plain": [None, True, 0.1, "é", {}],
        "nan": torch.tensor([torch.nan, torch.inf, -0.0]),
        "empty": torch.zeros(0, 2),
        "json": torch.ones(1, dtype=torch.bool),
    }
    write(tmp_path / STATE, state)
    found = read(tmp_path / STATE)
    assert torch.equal(found["a"], shared)
    assert torch.equal(found["b"][0], shared.T)
    assert found["b"][1]["task x/y.z"].item() == 3
    assert found["plain"] == state["plain"]
    assert found["nan"].tolist()[1:] == [torch.inf, 0.0]
    assert torch.signbit(found["nan"][2])
    assert found["empty"].shape == (0, 2)
    assert found["json"].dtype == torch.bool
    assert [path.name for path in tmp_path.iterdir()] == [STATE]


def test_a_failed_write_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / STATE, {"n": 1})

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PolytaskError, match=r"cannot write the checkpoint: .*No space left on device.*is still there"):
        write(tmp_path / STATE, {"n": 2})
    assert read(tmp_path / STATE) == {"n": 1}


@pytest.mark.parametrize("what", ["cut", "empty", "foreign", "no pickle"])
def test_a_damaged_checkpoint_is_told(what: str, tmp_path: Path) -> None:
    path = tmp_path / STATE
    write(path, {"a": torch.ones(3)})
    content = {"cut": path.read_bytes()[:-5], "empty": b"", "no pickle": b"\x80\x04."}
    if what == "foreign":
        save_file({"a": torch.ones(3)}, path)
    else:
        path.write_bytes(content[what])
    with pytest.raises(PolytaskError, match="the checkpoint is damaged"):
        read(path)


def test_a_newer_format_is_told(tmp_path: Path) -> None:
    text = json.dumps({"format": 99, "state": None}).encode()
    save_file({JSON: torch.frombuffer(bytearray(text), dtype=torch.uint8)}, tmp_path / STATE)
    with pytest.raises(PolytaskError, match="written by a newer polytask"):
        read(tmp_path / STATE)


def test_another_network_is_told(tmp_path: Path) -> None:
    trained(recipe(), Checkpoints(tmp_path, None, {}))
    wider = recipe(encoder=Table(width=9, depth=1, embedding="plain"))
    with pytest.raises(PolytaskError, match="the checkpoint is not of this training"):
        trained(wider, Checkpoints(tmp_path, None, {}))


# -------------------------------------------------------------------------------------------------------- the run's folder


def stop_at(n_epochs: int, number: int = signal.SIGINT) -> Callable[[Epoch], None]:
    """A signal after some epochs, as Ctrl-C or the system sends it."""

    def on_epoch(epoch: Epoch) -> None:
        if epoch.epoch == n_epochs:
            signal.raise_signal(number)

    return on_epoch


def csv_recipe(folder: Path, **fields: Any) -> Recipe:
    houses(200).to_csv(folder / "houses.csv", index=False)
    return recipe(**fields).model_copy(update={"sources": (CSV(folder / "houses.csv"),)})


def content(folder: Path) -> dict[str, Any]:
    """What a run folder says but the seconds."""
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return {
        "weights": (folder / "model/weights.safetensors").read_bytes(),
        "manifest": (folder / "model/manifest.json").read_text(encoding="utf-8"),
        "scores": (folder / "scores.json").read_text(encoding="utf-8"),
        "history": [epoch | {"seconds": 0} for epoch in history],
        "record": record | {"seconds": 0},
        "recipe": (folder / "recipe.yaml").read_text(encoding="utf-8"),
        "files": sorted(path.name for path in folder.iterdir()),
    }


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_saves_and_says_how_to_go_on(name: str, tmp_path: Path) -> None:
    number = signal.Signals[name]
    asked, out = csv_recipe(tmp_path), tmp_path / "run"
    fit(asked, tmp_path / "whole")
    handler = signal.getsignal(number)
    with pytest.raises(Stopped, match=f"stopped by {name}; the training is saved: `polytask resume .*run` goes on") as caught:
        fit(asked, out, on_epoch=stop_at(1, number))
    assert caught.value.signal == number
    assert isinstance(caught.value, KeyboardInterrupt)
    assert signal.getsignal(number) is handler
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["recipe.yaml", STATE]
    with pytest.raises(PolytaskError, match=r"the training of this run is not finished.*polytask resume"):
        load(out)
    with pytest.raises(PolytaskError, match=r"there is an unfinished training.*polytask resume .*--overwrite"):
        fit(asked, out)
    told: list[int] = []
    run = resume(out, on_epoch=lambda epoch: told.append(epoch.epoch))
    assert told == [1, 2, 3]
    assert isinstance(run, Run)
    assert content(out) == content(tmp_path / "whole")
    assert resume(out).scores().to_dict() == run.scores().to_dict()


def test_a_signal_after_the_last_epoch_is_heard(tmp_path: Path) -> None:
    asked = csv_recipe(tmp_path)
    with pytest.raises(Stopped):
        fit(asked, tmp_path / "run", on_epoch=stop_at(3))
    assert len(resume(tmp_path / "run").history) == 3


def test_the_run_before_stays_until_the_new_one_is_trained(tmp_path: Path) -> None:
    asked, out = csv_recipe(tmp_path), tmp_path / "run"
    first = fit(asked, out)
    other = asked.model_copy(update={"seed": 5})
    fit(other, tmp_path / "other")
    with pytest.raises(Stopped):
        fit(other, out, overwrite=True, on_epoch=stop_at(2))
    assert load(out).scores().to_dict() == first.scores().to_dict()
    resume(out)
    assert content(out) == content(tmp_path / "other")


def test_begun_anew_forgets_the_unfinished(tmp_path: Path) -> None:
    asked, out = csv_recipe(tmp_path), tmp_path / "run"
    with pytest.raises(Stopped):
        fit(asked, out, on_epoch=stop_at(2))
    other = asked.model_copy(update={"seed": 5})
    fit(other, tmp_path / "other")
    fit(other, out, overwrite=True)
    assert content(out) == content(tmp_path / "other")


def test_a_crash_while_a_run_takes_its_place_is_mended(tmp_path: Path) -> None:
    asked, out = csv_recipe(tmp_path), tmp_path / "run"
    with pytest.raises(Stopped):
        fit(asked, out, on_epoch=stop_at(2))
    out.rename(tmp_path / ".run.old")
    (tmp_path / ".run.new").mkdir()
    assert len(resume(out).history) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["houses.csv", "run"]


def test_data_or_recipe_that_changed_are_told(tmp_path: Path) -> None:
    asked, out = csv_recipe(tmp_path), tmp_path / "run"
    with pytest.raises(Stopped):
        fit(asked, out, on_epoch=stop_at(1))
    with pytest.raises(PolytaskError, match=r"the training was begun with another balancer, seed\. Give the same recipe"):
        resume(out, asked.model_copy(update={"seed": 3, "balancer": recipe(balancer="dwa").balancer}))
    path = tmp_path / "houses.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("north", "south"), encoding="utf-8")
    with pytest.raises(PolytaskError, match="the data of 'houses' changed since this training began"):
        resume(out)


def test_rows_in_memory_and_a_users_loss_are_given_again(tmp_path: Path) -> None:
    def absolute(output: Tensor, target: Tensor) -> Tensor:
        return (output[:, 0] - target).abs()

    def make() -> Recipe:
        return recipe(tasks=[Regression("sqft_living", loss=absolute), Binary("waterfront")])

    fit(make(), tmp_path / "whole")
    with pytest.raises(Stopped):
        fit(make(), tmp_path / "run", on_epoch=stop_at(1))
    with pytest.raises(PolytaskError, match="Pass the data again"):
        resume(tmp_path / "run")
    resume(tmp_path / "run", make())
    assert content(tmp_path / "run") == content(tmp_path / "whole")


def test_nothing_to_go_on_with_is_told(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(PolytaskError, match=r"no training to go on with\. `polytask fit"):
            resume(place)


def test_a_training_that_fails_at_once_leaves_nothing(tmp_path: Path) -> None:
    wrong = recipe(trainer=Trainer(epochs=2, clip=None, optimizer={"name": "SGD", "lr": 1e38, "weight_decay": 0}))
    with pytest.raises(PolytaskError, match="no longer finite"):
        fit(wrong, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------------ kill -9


@pytest.mark.slow
def test_killed_at_random_moments_it_always_goes_on(tmp_path: Path) -> None:
    """At least 20 times, by SIGKILL, in processes that are forked from one that has imported everything."""
    asked = csv_recipe(tmp_path, balancer="famo_like", tasks=[Regression("price"), Regression("sqft_living")])
    asked = asked.model_copy(update={"trainer": asked.trainer.model_copy(update={"checkpoint": 0.0, "epochs": 4})})
    fit(asked, tmp_path / "whole")
    (tmp_path / "asked.yaml").write_text(asked.to_yaml(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killing.py")), str(tmp_path), "22"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["killed"] >= 20
    assert told["steps"] >= 5
    finished = sorted(tmp_path.glob("run-*"))
    assert len(finished) == told["finished"] >= 1
    expected = content(tmp_path / "whole")
    for folder in finished:
        assert content(folder) == expected
    assert not list(tmp_path.glob(".run-*"))


def test_the_weights_on_disk_are_those_of_the_run(tmp_path: Path) -> None:
    asked = csv_recipe(tmp_path)
    with pytest.raises(Stopped):
        fit(asked, tmp_path / "run", on_epoch=stop_at(1))
    run = resume(tmp_path / "run")
    stored = load_file(tmp_path / "run/model/weights.safetensors")
    assert all(torch.equal(stored[key], value) for key, value in run.bundle.model.state_dict().items())
