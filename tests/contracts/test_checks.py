"""The checks find what they are there for: each plug-in below breaks its contract in one way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from polytask import component
from polytask.balancer import GramianBalancer, LossBalancer, Signals, State, uniform
from polytask.batch import Features, FeatureSpec, Inputs
from polytask.columns import InputCodec
from polytask.encoder import Encoder, Part, TrunkPlan, set_key
from polytask.encoders.external import External
from polytask.errors import PolytaskError
from polytask.head import Head, OutputSpec, starting_at
from polytask.heads.external import External as ExternalHead
from polytask.heads.linear import Linear
from polytask.sharing import SharedTrunk, Sharing, StageOutputs
from polytask.task import Codec, Task
from polytask.tasks._numbers import NumberTask
from polytask.tasks.multiclass import Multiclass
from polytask.tasks.regression import Regression
from polytask.testing import (
    ContractError,
    _given,
    check_balancer,
    check_encoder,
    check_head,
    check_sharing,
    check_task,
)


@pytest.fixture(autouse=True)
def forget_the_broken_plug_ins() -> Iterator[None]:
    yield
    for family, kind in [key for key in component._defined if key[1] == "broken"]:
        del component._defined[family, kind]


def complaint(check: Any, *arguments: Any) -> str:
    with pytest.raises(ContractError) as caught:
        check(*arguments)
    return str(caught.value)


def test_a_broken_contract_is_a_failed_assertion_and_reads_like_every_mistake() -> None:
    error = ContractError("the weights are not finite", where="balancer 'mine'", found="nan")
    assert isinstance(error, AssertionError)
    assert isinstance(error, PolytaskError)
    assert str(error) == "balancer 'mine': the weights are not finite. Found: nan."


def balancer(step: Any, start: Any = lambda tasks: State(), root: Any = LossBalancer, **attributes: Any) -> Any:
    """A balancer of these functions."""
    methods = {"step": lambda self, state, signals: step(state, signals), "start": lambda self, tasks: start(tasks)}
    return type("Broken", (root,), {"weights_sum_to": "1", "__module__": __name__, **methods, **attributes})()


def shares(values: Tensor) -> Tensor:
    return values / values.sum()


def test_check_balancer_finds_what_breaks_its_contract() -> None:
    assert "does not say what its weights sum to" in complaint(
        check_balancer, balancer(lambda state, s: (uniform(s), state), weights_sum_to="")
    )
    assert "1 of the tasks, losses of zero, torch.float32: the answer of step 0 is not finite" in complaint(
        check_balancer, balancer(lambda state, s: (shares(1 / s.losses), state))
    )
    assert "step does not give a tensor of shape (1,). Found: ()" in complaint(
        check_balancer, balancer(lambda state, s: (uniform(s).sum(), state))
    )
    assert "gives two answers" in complaint(check_balancer, balancer(lambda state, s: (torch.rand_like(s.losses), state)))
    assert "another dtype" in complaint(check_balancer, balancer(lambda state, s: (uniform(s).half(), state)))
    first = balancer(lambda state, s: (shares(torch.arange(1.0, len(s.tasks) + 1).to(s.losses)), state))
    assert "the order of the tasks makes a difference" in complaint(check_balancer, first)
    norms = balancer(lambda state, s: (shares(1 / s.gramian.diagonal()), state), root=GramianBalancer)
    assert "the answer of step 0 is not finite" in complaint(check_balancer, norms)


def test_check_balancer_finds_what_breaks_the_state() -> None:
    def zeros(tasks: Sequence[str]) -> State:
        return State({"sum": torch.zeros(len(tasks))})

    def in_place(state: State, signals: Signals) -> tuple[Tensor, State]:
        state.per_task["sum"].add_(1)
        return uniform(signals), state

    def other_keys(state: State, signals: Signals) -> tuple[Tensor, State]:
        return uniform(signals), State({"total": signals.losses})

    def on_the_object(state: State, signals: Signals) -> tuple[Tensor, State]:
        memory.append(float(signals.losses.sum()))
        return uniform(signals) * (1 + 0.1 * (len(memory) // 2)), state

    memory: list[float] = []
    assert "step changed the state it was given" in complaint(check_balancer, balancer(in_place, zeros))
    assert "the next state has other keys. Found: ['total'] after ['sum']" in complaint(
        check_balancer, balancer(other_keys, zeros)
    )
    assert "Keep nothing on the object" in complaint(check_balancer, balancer(on_the_object))


STEM = set_key(InputCodec.fit(_given.tables()[0], _given.tables()[0].column_names))


class Centered(nn.Module):
    """Looks at the other rows."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out)

    def forward(self, values: Tensor) -> Tensor:
        return self.linear(values - values.mean(0))  # type: ignore[no-any-return]


class Idle(Centered):
    """Has a parameter that does nothing."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out)
        self.idle = nn.Parameter(torch.zeros(3))

    def forward(self, values: Tensor) -> Tensor:
        return self.linear(values)  # type: ignore[no-any-return]


class Noisy(Centered):
    """Draws from another generator than torch's."""

    rng: ClassVar[np.random.Generator] = np.random.default_rng(0)

    def forward(self, values: Tensor) -> Tensor:
        noise = self.rng.normal() if self.training else 0.0
        return self.linear(values + noise)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Centered(7, 5), "a row's features depend on the other rows in evaluation mode"),
        (Idle(7, 5), f"no output depends on the parameter 'stem.stems.{STEM}.module.idle'"),
        (Noisy(7, 5), "the same step draws two different dropouts"),
    ],
)
def test_check_encoder_finds_what_breaks_its_contract(module: nn.Module, words: str) -> None:
    assert words in complaint(check_encoder, External(name="Broken", module=module), _given.tables()[:1])


class Series(nn.Module):
    """The numbers as a sequence under a mask of ones."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(1, width)

    def forward(self, inputs: Inputs) -> Features:
        numbers = inputs["numbers"]
        return Features(self.linear(numbers.unsqueeze(2)), torch.ones_like(numbers, dtype=torch.bool))


class Mix(nn.Module):
    """A mean over all steps, those that are not there too."""

    def forward(self, features: Features) -> Features:
        return Features(features.tensor - features.tensor.mean(1, keepdim=True), features.mask)


def series(spec: FeatureSpec, stage: Any, stem: Any = Series) -> Encoder:
    parts = {"stem": lambda self, codec: Part(spec, stem), "stages": lambda self, spec: [Part(spec, stage)]}
    return type("Broken", (Encoder,), {"__module__": __name__, **parts})()


def test_check_encoder_finds_wrong_specs_lost_padding_and_shared_copies() -> None:
    right = FeatureSpec("sequence", 3)
    check_encoder(series(right, nn.Identity))
    assert "encoder 'broken', stem: features are not of the shape that" in complaint(
        check_encoder, series(FeatureSpec("sequence", 4), nn.Identity)
    )
    assert "stage 0: padding changes the features. Use the mask." in complaint(check_encoder, series(right, Mix))
    one = Series()
    assert "two copies share a parameter" in complaint(check_encoder, series(right, nn.Identity, lambda: one))
    assert "a sequence has no mask" in complaint(
        check_encoder, series(right, type("Bare", (nn.Module,), {"forward": lambda self, f: Features(f.tensor)}))
    )


class MeanOfAll(nn.Module):
    """Pools padding too."""

    def __init__(self, n_in: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, width)

    def forward(self, features: Sequence[Features]) -> Tensor:
        return self.linear(features[-1].tensor.mean(1))  # type: ignore[no-any-return]


def head(build: Any) -> Head:
    return type("Broken", (Head,), {"__module__": __name__, "build": lambda self, specs, output: build(specs, output)})()


def test_check_head_finds_what_breaks_its_contract() -> None:
    sequences = [FeatureSpec("sequence", 4)]
    for module, words in ((Centered(5, 1), "a row's output depends on the other rows"), (Idle(5, 1), "no output depends on")):
        assert words in complaint(check_head, ExternalHead(name="Broken", module=module), _given_vectors(), [1])

    def pooling_all(specs: Sequence[FeatureSpec], output: OutputSpec) -> nn.Module:
        module = MeanOfAll(specs[-1].width, output.width)
        starting_at(module.linear, output.start)
        return module

    assert "padding changes the output" in complaint(check_head, head(pooling_all), sequences)
    far = head(lambda specs, output: Linear().build(specs, replace(output, start=torch.zeros_like(output.start))))
    assert "it does not begin near start" in complaint(check_head, far)
    wide = head(lambda specs, output: Linear().build(specs, OutputSpec(output.width + 1, torch.zeros(output.width + 1))))
    assert "the output is not of shape (6, 1). Found: (6, 2)" in complaint(check_head, wide)


def _given_vectors() -> list[FeatureSpec]:
    return [FeatureSpec("vector", 5)]


class Trunk(SharedTrunk):
    """A stem and stages for all tasks, with what ``spoil`` makes of them."""

    def __init__(self, plan: TrunkPlan, spoil: Any = lambda outputs: outputs, name: str = "shared") -> None:
        super().__init__()
        self.specs, self.spoil = plan.specs, spoil
        self.stem = plan.stem()
        self.stages = nn.ModuleList(plan.stage(i, name) for i in range(plan.n_stages))

    def forward(self, inputs: Sequence[Inputs], tasks: Sequence[str]) -> Mapping[str, StageOutputs]:
        outputs: StageOutputs = (self.stem(inputs),)
        for stage in self.stages:
            outputs = (*outputs, stage(outputs[-1]))
        return self.spoil(dict.fromkeys(tasks, outputs))  # type: ignore[no-any-return]


class TwiceTheSame(Trunk):
    def __init__(self, plan: TrunkPlan) -> None:
        super().__init__(plan)
        self.more = plan.stage(0)


class Gated(Trunk):
    """Draws weights of its own from whatever generator there is."""

    def __init__(self, plan: TrunkPlan) -> None:
        super().__init__(plan, self._scale)
        self.gate = nn.Linear(1, 1)

    def _scale(self, outputs: dict[str, StageOutputs]) -> dict[str, StageOutputs]:
        gate = self.gate(torch.ones(1, 1))
        return {task: tuple(Features(f.tensor * gate, f.mask) for f in parts) for task, parts in outputs.items()}


class Tied(Trunk):
    """Two parameters begin with one tensor, which cannot be saved."""

    def __init__(self, plan: TrunkPlan) -> None:
        super().__init__(plan)
        start = torch.ones(3)
        self.one, self.two = nn.Parameter(start), nn.Parameter(start)


def divided_by(number: int) -> Any:
    return lambda outputs: {t: tuple(Features(f.tensor / number, f.mask) for f in parts) for t, parts in outputs.items()}


def by_number(outputs: dict[str, StageOutputs]) -> dict[str, StageOutputs]:
    return {task: tuple(Features(f.tensor / len(outputs), f.mask) for f in parts) for task, parts in outputs.items()}


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda plan, tasks: Trunk(plan, lambda outputs: dict(list(outputs.items())[:2])), "does not answer the tasks"),
        (lambda plan, tasks: Trunk(plan, by_number), "depend on which other tasks are asked for"),
        (lambda plan, tasks: Trunk(plan, name=str(len(tasks))), "one more task changes the initial weights"),
        (lambda plan, tasks: TwiceTheSame(plan), "two copies of the stage 0 have the name 'shared'"),
        (lambda plan, tasks: Tied(plan), "two of its weights are one in memory"),
        (lambda plan, tasks: Trunk(plan, divided_by(len(tasks))), "depend on which other tasks there are"),
        (lambda plan, tasks: Gated(plan), "one seed gives two sets of initial weights"),
    ],
)
def test_check_sharing_finds_what_breaks_its_contract(build: Any, words: str) -> None:
    scheme = type("Broken", (Sharing,), {"__module__": __name__, "build": lambda self, plan, tasks: build(plan, tasks)})
    assert words in complaint(check_sharing, scheme())


def test_check_sharing_finds_what_a_scheme_wrongly_says_of_itself() -> None:
    def told(**said: bool) -> str:
        methods = {"build": lambda self, plan, tasks: Trunk(plan), "__module__": __name__, **said}
        return complaint(check_sharing, type("Broken", (Sharing,), methods)())

    assert "shares is False, but some parameter serves two tasks" in told(shares=False)
    assert "independent is True, but tasks share parameters or a penalty" in told(independent=True)


def like(kind: type[Task], root: type[Task] = NumberTask, **changes: Any) -> Task:
    """A task with the methods of another but for some changes."""
    methods = {name: value for klass in reversed(kind.__mro__[:-1]) for name, value in vars(klass).items() if callable(value)}
    own = {name: value for name, value in methods.items() if not name.startswith("_") and name in root.__abstractmethods__}
    own |= {
        name: kind.__dict__[name]
        for name in ("best_constant", "searches_constant", "truth", "answer_columns")
        if name in kind.__dict__
    }
    fixed = {"default_metrics": kind.default_metrics, "__module__": __name__}
    return type("Broken", (root,), {**own, **fixed, **changes})("y")


def coupled(self: Task, output: Tensor, target: Tensor) -> Tensor:
    losses = (output[:, 0] - target).square()
    return losses / (losses.mean() + 1)


def with_nan(self: Task, column: pa.Array, codec: Codec) -> tuple[Tensor, Tensor]:
    target, present = Regression("y").encode(column, codec)
    return torch.where(present, target, torch.nan), present


def ignoring_nulls(self: Task, column: pa.Array, codec: Codec) -> tuple[Tensor, Tensor]:
    target, present = Regression("y").encode(column, codec)
    return target, torch.ones_like(present)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"row_losses": lambda self, o, t: (o[:, 0] - t).square().mean()},
            "row_losses does not give one loss per row. Found: ()",
        ),
        ({"row_losses": coupled}, "a row's loss depends on the other rows. Set couples_rows to True."),
        ({"row_losses": lambda self, o, t: (o[:, 0] - t).abs().sqrt() / (t - t)}, "losses are not finite"),
        ({"encode": with_nan}, "a target is not finite"),
        ({"encode": ignoring_nulls}, "the mask is not where the labels are"),
        ({"best_constant": lambda self, target, codec, weights: torch.ones(1)}, "beats start"),
        ({"has_constant": False, "couples_rows": True, "row_losses": lambda self, o, t: o[:, 0] * 0}, "the gradient is zero"),
        ({"truth": lambda self, target, codec: target}, "truth does not give the labels"),
        ({"default_metrics": ("r3",)}, "it does not know its own metrics. Found: ['r3']"),
        ({"answer": lambda self, views, codec, probabilities=False: {"z": pa.array([1])}}, "no column 'y' is answered"),
    ],
)
def test_check_task_finds_what_breaks_its_contract(changes: dict[str, Any], words: str) -> None:
    assert words in complaint(check_task, like(Regression, NumberTask, **changes))


def test_check_task_accepts_what_it_is_made_of() -> None:
    check_task(like(Regression, NumberTask))
    check_task(Multiclass("y"))
