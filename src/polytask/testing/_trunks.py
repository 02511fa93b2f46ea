"""check_encoder and check_sharing: stems and stages, and what a sharing scheme makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional

from polytask.batch import Features, FeatureSpec, Inputs
from polytask.columns import InputCodec
from polytask.encoder import Encoder, TrunkPlan
from polytask.seeding import Clock, seeded
from polytask.sharing import SharedTrunk, Sharing, StageOutputs
from polytask.testing import _given
from polytask.testing._given import as_vectors, check_features, check_gradients, check_spec, close, demand, place, same_values

TASKS = ("price", "in no. of $", "late")
N_ALONE = 4


class _Data:
    """Tables as an encoder's inputs, one per distinct set of input columns."""

    def __init__(self, encoder: Encoder, tables: Sequence[pa.Table] | None) -> None:
        made_up = _given.pictures if encoder.reads_images else _given.tables
        self.tables = made_up() if tables is None else list(tables)
        self.codecs: list[InputCodec] = [encoder.fit_inputs(table, table.column_names, {}) for table in self.tables]
        self.inputs: tuple[Inputs, ...] = tuple(c.encode(t) for c, t in zip(self.codecs, self.tables, strict=True))
        self.n_rows = sum(table.num_rows for table in self.tables)

    def only(self, index: int, row: int | None = None) -> tuple[Inputs, ...]:
        """The rows of one table, or one of its rows."""
        parts: list[Inputs] = [{} for _ in self.inputs]
        rows = slice(None) if row is None else slice(row, row + 1)
        parts[index] = {key: value[rows] for key, value in self.inputs[index].items()}
        return tuple(parts)


def check_encoder(encoder: Encoder, tables: Sequence[pa.Table] | None = None) -> None:
    """Whether an encoder keeps its contract.

    Its stem and every stage give features of the shape that their specs say. Copies share no parameters, and their initial
    weights and dropout depend on torch's generator alone. Every parameter has an effect. In evaluation mode a row's features
    depend on that row alone, and on no padding. Tables with different columns have stems of their own before the same stages.

    Args:
        encoder: The encoder.
        tables: A table per set of input columns; None for two made-up ones with different columns. Give one where the encoder
            reads one only.

    Raises:
        ContractError: It does not; the message says where.
        PolytaskError: Its stems differ in shape.

    Example:
        >>> from polytask.encoders import Table
        >>> check_encoder(Table(width=8, depth=1))
    """
    where = place(encoder)
    check_spec(encoder)
    data, clock = _Data(encoder, tables), Clock()
    specs = TrunkPlan(encoder, data.codecs).specs
    demand(len(specs) > 1, where, "it has no stage", mend="Return one Part at least from stages.")
    members = sorted({spec.members for spec in specs})
    demand(len(members) == 1, where, "its parts differ in their number of members", found=members)
    chains = [_Chain(encoder, data.codecs, seed, clock) for seed in (0, 0, 1)]
    _check_copies(chains[0], chains[1], chains[2], where)
    chain = chains[0]
    outputs = chain(data.inputs)
    for index, (features, spec) in enumerate(zip(outputs, specs, strict=True)):
        check_features(features, spec, data.n_rows, f"{where}, {f'stage {index - 1}' if index else 'stem'}")
    check_gradients([as_vectors(outputs[-1:], specs[-1:])], chain, where)
    _check_draws(lambda: as_vectors(chain.train()(data.inputs), specs), clock, where)
    chain.eval()
    with torch.no_grad():
        _check_padding(chain, data.inputs, specs, where)
        vectors = as_vectors(chain(data.inputs), specs)
        parts = [as_vectors(chain(data.only(i)), specs) for i in range(len(data.tables))]
        demand(close(vectors, torch.cat(parts)), where, "rows of one table depend on those of another")
        alone = torch.cat([as_vectors(chain(data.only(0, row)), specs) for row in range(N_ALONE)])
        demand(close(vectors[:N_ALONE], alone), where, "a row's features depend on the other rows in evaluation mode")
        chains[2].load_state_dict(chain.state_dict())
        again = as_vectors(chains[2].eval()(data.inputs), specs)
        demand(
            close(vectors, again), where, "loaded weights give other features", mend="Register what build computes as a buffer."
        )


def check_sharing(sharing: Sharing, encoder: Encoder | None = None, tables: Sequence[pa.Table] | None = None) -> None:
    """Whether a sharing scheme keeps its contract, on top of an encoder.

    It hands every task that is asked for features of the shape that its specs say, whatever tasks are called, and the same ones
    whichever other tasks are asked for. Initial weights depend on the seed and on names, so that one more task changes none of
    them; no two parts have one name, and no two weights are one in memory. Every parameter has an effect. Its penalty is a
    scalar, and what it says of itself, ``shares``, ``independent`` and ``joint``, is true.

    Args:
        sharing: The scheme.
        encoder: The encoder; None for a small ``table``. Try it with encoders of maps, sequences and ensembles too.
        tables: As for ``check_encoder``.

    Raises:
        ContractError: It does not; the message says where.

    Example:
        >>> from polytask.sharings import Hard
        >>> check_sharing(Hard(stages=1))
    """
    where = place(sharing)
    check_spec(sharing)
    encoder = Encoder.coerce({"kind": "table", "width": 8}) if encoder is None else encoder
    data, clock = _Data(encoder, tables), Clock()
    trunks = []
    for number, seed in enumerate((0, 0, 1)):
        with seeded(number):  # which no weight may depend on
            trunks.append(_built(sharing, encoder, data, TASKS, seed, clock))
    trunk = trunks[0]
    mend = "Make the scheme's own modules with plan.own(name, build)."
    demand(
        same_values(trunk.state_dict(), trunks[1].state_dict()), where, "one seed gives two sets of initial weights", mend=mend
    )
    weights = [weight for weight in trunk.state_dict().values() if weight.numel()]
    apart = len({weight.data_ptr() for weight in weights}) == len(weights)
    demand(apart, where, "two of its weights are one in memory", mend="Clone what parameters begin with, and name each once.")
    for n in (1, len(TASKS) - 1):
        _check_one_more(trunk, _built(sharing, encoder, data, TASKS[:n], 0, clock), where)
    outputs = trunk(data.inputs, TASKS)
    demand(tuple(outputs) == TASKS, where, "it does not answer the tasks that were asked for", found=list(outputs))
    for task, parts in outputs.items():
        demand(len(parts) == len(trunk.specs), where, f"not one output per spec for {task!r}", found=len(parts))
        for features, spec in zip(parts, trunk.specs, strict=True):
            check_features(features, spec, data.n_rows, f"{where}, {task!r}")
    penalty = _check_penalty(trunk, where)
    vectors = [as_vectors(parts, trunk.specs) for parts in outputs.values()]
    penalties = [] if penalty is None else [penalty]
    _check_reach(sharing, trunk, vectors, penalties, where)
    check_gradients([*vectors, *penalties], trunk, where)
    for subset in (TASKS[:1], TASKS[::-2]):
        clock.step = 1
        for mode in (True, False):
            trunk.train(mode)
            every, some = (_vectors(trunk, data.inputs, asked) for asked in (TASKS, subset))
            same = all(close(every[task], some[task]) for task in subset)
            demand(same, where, "a task's features depend on which other tasks are asked for", found=f"asked for {subset}")
        clock.step = None
    _check_draws(lambda: torch.cat(list(_vectors(trunk.train(), data.inputs, TASKS).values())), clock, where)
    trunks[2].load_state_dict(trunk.state_dict())
    after, before = (_vectors(item.eval(), data.inputs, TASKS) for item in (trunks[2], trunk))
    same = all(close(before[task], after[task]) for task in TASKS)
    demand(same, where, "loaded weights give other features", mend="Register what build computes as a buffer.")
    if not sharing.joint:
        for alone in (TASKS[:1], TASKS[-1:]):
            _check_parted(trunk, _built(sharing, encoder, data, alone, 0, clock), alone, data.inputs, where)


class _Chain(nn.Module):
    """Stem and stages, one after the other."""

    def __init__(self, encoder: Encoder, codecs: Sequence[InputCodec], seed: int, clock: Clock) -> None:
        super().__init__()
        plan = TrunkPlan(encoder, codecs, seed, clock)
        self.stem = plan.stem()
        self.stages = nn.ModuleList(plan.stage(i) for i in range(plan.n_stages))

    def forward(self, inputs: Sequence[Inputs]) -> StageOutputs:
        outputs: StageOutputs = (self.stem(inputs),)
        for stage in self.stages:
            outputs = (*outputs, stage(outputs[-1]))
        return outputs


class _StrictPlan(TrunkPlan):
    """Hands out each name once."""

    names: set[tuple[object, ...]]
    where: str

    def stem(self, name: str = "shared", like: str | None = None) -> nn.Module:
        self._take("stem", name)
        return super().stem(name, like)

    def stage(self, index: int, name: str = "shared", like: str | None = None) -> nn.Module:
        self._take(f"stage {index}", name)
        return super().stage(index, name, like)

    def own(self, name: str, build: Callable[[], nn.Module]) -> nn.Module:
        self._take("scheme's own modules", name)
        return super().own(name, build)

    def _take(self, *names: object) -> None:
        mend = "They would have the same weights and the same dropout."
        demand(names not in self.names, self.where, f"two copies of the {names[0]} have the name {names[1]!r}", mend=mend)
        self.names.add(names)


def _built(sharing: Sharing, encoder: Encoder, data: _Data, tasks: Sequence[str], seed: int, clock: Clock) -> SharedTrunk:
    plan = _StrictPlan(encoder, data.codecs, seed, clock)
    plan.names, plan.where = set(), place(sharing)
    return sharing.build(plan, tasks)


def _check_copies(chain: nn.Module, twin: nn.Module, other: nn.Module, where: str) -> None:
    demand(same_values(chain.state_dict(), twin.state_dict()), where, "one seed gives two sets of initial weights")
    pointers = [{p.data_ptr() for p in module.parameters() if p.numel()} for module in (chain, other)]
    demand(not pointers[0] & pointers[1], where, "two copies share a parameter", mend="Make new modules in Part.build.")


def _check_draws(vectors: object, clock: Clock, where: str) -> None:
    """What is drawn in training is a function of the step."""
    assert callable(vectors)
    clock.step = 3
    with torch.no_grad():
        once, twice = vectors(), vectors()
    clock.step = None
    demand(torch.isfinite(once).all(), where, "features are not finite in training")
    mend = "Draw from torch's generator, in forward."
    demand(torch.equal(once, twice), where, "the same step draws two different dropouts", mend=mend)


def _check_padding(chain: _Chain, inputs: Sequence[Inputs], specs: Sequence[FeatureSpec], where: str) -> None:
    """Two more steps of noise that the mask leaves out make no difference to a stage."""
    features = chain.stem(inputs)
    for index, stage in enumerate(chain.stages):
        spec, out = specs[index], specs[index + 1]
        if spec.kind == "sequence" and not spec.space and features.mask is not None:
            tensor = torch.where(
                features.mask.unsqueeze(-1) if spec.members == 1 else features.mask[:, None, :, None], features.tensor, 9.0
            )
            longer = Features(functional.pad(tensor, (0, 0, 0, 2), value=9.0), functional.pad(features.mask, (0, 2)))
            same = close(as_vectors([stage(features)], [out]), as_vectors([stage(longer)], [out]))
            demand(same, f"{where}, stage {index}", "padding changes the features", mend="Use the mask.")
        features = stage(features)


def _check_one_more(trunk: SharedTrunk, smaller: SharedTrunk, where: str) -> None:
    """What both trunks have begins with the same values."""
    larger = trunk.state_dict()
    changed = [
        k
        for k, v in smaller.state_dict().items()
        if k in larger and v.shape == larger[k].shape and not torch.equal(v, larger[k])
    ]
    mend = "Name parts after what they are for, not after how many there are."
    demand(
        not changed, where, "one more task changes the initial weights of what was there", found=", ".join(changed), mend=mend
    )


def _check_parted(trunk: SharedTrunk, smaller: SharedTrunk, tasks: Sequence[str], inputs: Sequence[Inputs], where: str) -> None:
    """With the same weights, a network for some of the tasks hands them the same features."""
    larger = trunk.state_dict()
    smaller.load_state_dict(
        {k: larger[k] if k in larger and larger[k].shape == v.shape else v for k, v in smaller.state_dict().items()}
    )
    before, after = (_vectors(item.eval(), inputs, tasks) for item in (trunk, smaller))
    same = all(close(before[task], after[task]) for task in tasks)
    mend = "Set joint to True, so that the parts of all tasks are kept together."
    demand(same, where, "a task's features depend on which other tasks there are", mend=mend)


def _check_penalty(trunk: SharedTrunk, where: str) -> Tensor | None:
    penalty = trunk.penalty()
    if penalty is not None:
        demand(penalty.ndim == 0, where, "the penalty is not a scalar", found=tuple(penalty.shape))
        demand(torch.isfinite(penalty), where, "the penalty is not finite", found=penalty.item())
    for name, value in trunk.diagnostics().items():
        demand(torch.isfinite(value).all(), where, f"the diagnostic {name!r} is not finite")
    return penalty


def _check_reach(
    sharing: Sharing, trunk: SharedTrunk, vectors: Sequence[Tensor], penalties: Sequence[Tensor], where: str
) -> None:
    """Whether tasks share parameters is what ``shares`` says, and that no penalty ties them either ``independent``."""
    tied = any(penalty.requires_grad for penalty in penalties)
    parameters = [p for p in trunk.parameters() if p.requires_grad and p.numel()]
    frozen = any(not p.requires_grad for p in trunk.parameters())
    reached = [torch.autograd.grad(v.sum(), parameters, allow_unused=True, retain_graph=True) for v in vectors]
    shared = any(sum(row[i] is not None for row in reached) > 1 for i in range(len(parameters)))
    if not parameters or (frozen and not shared):  # what they share may be what is frozen
        return
    what = f"shares is {sharing.shares}, but {'some' if shared else 'no'} parameter serves two tasks"
    demand(sharing.shares == shared, where, what)
    what = (
        f"independent is {sharing.independent}, but {'tasks' if shared or tied else 'no tasks'} share parameters or a penalty"
    )
    demand(sharing.independent != (shared or tied), where, what)


def _vectors(trunk: SharedTrunk, inputs: Sequence[Inputs], tasks: Sequence[str]) -> Mapping[str, Tensor]:
    with torch.no_grad():
        return {task: as_vectors(parts, trunk.specs) for task, parts in trunk(inputs, tasks).items()}
