"""MultiTaskModel: inputs -> encoder and sharing -> heads -> one output per task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polytask.batch import Batch, Dataset, Features, FeatureSpec, Inputs, widened
from polytask.columns import InputCodec
from polytask.encoder import Encoder, Pace, TrunkPlan
from polytask.errors import PolytaskError
from polytask.fitted import FittedTask
from polytask.head import Head, OneForAll, OutputSpec, Said, pooled
from polytask.reading import Reading, given_of, handed_of, in_order, reads_of, with_read
from polytask.seeding import Clock, derived_seed, draws_of, seed_draws, seeded
from polytask.sharing import SharedTrunk, Sharing, module_key
from polytask.task import constant_output

EVALUATION_ROWS = 4096


class MultiTaskModel(nn.Module):
    """The network.

    Args:
        trunk: Inputs to features.
        heads: Of these tasks, and of those that they read.
        tasks: As fitted, of which these are answered.
        answered: See ``tasks``; None for all of them.
        clock: What dropout follows.
        made: The modules of the trunk by part.
        independent: Whether no parameter is shared.
        specs: Of what each head sees of the last stage; None where no task reads another.

    Attributes:
        tasks: The fitted tasks that it answers, by name.
        reads: What each task with a head reads itself: what its head is handed, and what it is given.
        clock: Set ``clock.step`` to make dropout a function of (seed, part, step).
        layers: The matrices of the trunk's layers, by part and path in it, as in "stage 1 block.1", and of the heads, "head".
        independent: Whether no parameter is shared.
    """

    def __init__(
        self,
        trunk: SharedTrunk,
        heads: Mapping[str, nn.Module],
        tasks: Mapping[str, FittedTask],
        clock: Clock,
        made: Mapping[str, Sequence[nn.Module]],
        independent: bool = False,
        specs: Mapping[str, FeatureSpec] | None = None,
        answered: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.independent = independent
        self.trunk = trunk
        self.heads = nn.ModuleDict({module_key(name): head for name, head in heads.items()})
        self.tasks = {name: fitted for name, fitted in tasks.items() if answered is None or name in answered}
        self.read = {name: fitted for name, fitted in tasks.items() if name not in self.tasks}
        every = [fitted.task for fitted in tasks.values()]
        self.reads = reads_of(every)
        self.handed = handed_of(every)
        self.given = given_of(every)
        self.specs = dict(specs or {})
        self.state_read = {name for task in every for name, r in task.depends_on.items() if r.what == "state"}
        self.places = {name: place for place, name in enumerate(in_order(self.reads))}
        self.clock = clock
        self.layers = _layers(made) | {"head": [p for p in self.heads.parameters() if p.ndim > 1]}
        self._keys = {name: module_key(name) for name in heads}

    def forward(self, inputs: Sequence[Inputs], tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """The output of each of ``tasks`` (None: of all): ``[B, width]``, or ``[B, members, width]`` for an ensemble."""
        wanted = tuple(self.tasks) if tasks is None else tasks
        needed = with_read(wanted, self.handed)
        features, said = self.trunk(inputs, needed), dict[str, Said]()
        for task in sorted(needed, key=self.places.__getitem__):
            said[task] = self._said(task, features[task], said)
        return {task: said[task].output for task in wanted}

    def learned(self, inputs: Sequence[Inputs], tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """What the loss of each of ``tasks`` is of: its output, or for a task that is given another that of both."""
        wanted = tuple(self.tasks) if tasks is None else tasks
        outputs = self(inputs, with_read(wanted, self.given))
        for task in sorted(outputs, key=self.places.__getitem__):
            for other in self.given[task]:
                outputs[task] = self._fitted(task).task.joint(outputs[task], outputs[other])
        return {task: outputs[task] for task in wanted}

    def train(self, mode: bool = True) -> Self:
        """As for any module, but parts all of whose parameters are frozen stay in evaluation mode."""
        super().train(mode)
        for part in _frozen_parts([self.trunk, self.heads]):
            part.eval()
        return self

    def losses(self, batch: Batch, of_answers: bool = False) -> dict[str, Tensor]:
        """The mean loss of each task with a label in this batch, divided by its null loss and times its weight.

        Of inputs that were mixed it is the losses for the labels of both rows, mixed alike (Zhang 2018, arXiv:1710.09412; for
        cross-entropy that is the loss for mixed labels).

        Args:
            batch: The rows.
            of_answers: Judge an ensemble by the mean of its members' estimates, not each member for itself as in training.
        """
        self.trunk.see(batch)
        hiding = [task for task in batch.tasks if self.tasks[task].task.hides]
        losses = {task: self._loss_of_hidden(task, batch, of_answers) for task in hiding}
        whole = [task for task in batch.tasks if task not in hiding]
        outputs = self.learned(batch.inputs, whole) if whole else {}  # last, for the trunk's penalty is of the last pass
        losses |= {task: self._loss(task, output, batch, of_answers) for task, output in outputs.items()}
        if batch.mixed is not None:
            other, share = batch.labeled_as(batch.mixed.order), batch.mixed.share
            for task, output in outputs.items():
                losses[task] = share * losses[task] + (1 - share) * self._loss(task, output, other, of_answers)
        return {task: losses[task] for task in batch.tasks}

    def trained_apart(self) -> dict[tuple[str, ...], list[nn.Parameter]]:
        """The parameters that are trained, by the tasks that they serve: all of them together, or each task's own."""
        trained = [(name.split("."), p) for name, p in self.named_parameters() if p.requires_grad]
        if not self.independent:
            return {tuple(self.tasks): [parameter for _, parameter in trained]}
        own = {(task,): [p for path, p in trained if key in path] for task, key in self._keys.items()}
        return {tasks: parameters for tasks, parameters in own.items() if parameters}

    def head_of(self, task: str) -> nn.Module:
        """The head of a task that it answers or reads."""
        return self.heads[self._keys[task]]

    def has_begun(self, task: str) -> bool:
        """Whether a task's head waits for nothing; see ``Head.build``."""
        return bool(getattr(self.head_of(task), "begun", True))

    def paces(self) -> dict[nn.Parameter, Pace]:
        """How the parameters are trained that are not trained as all others."""
        paced = [(part, part.pace) for part in self.trunk.modules() if isinstance(getattr(part, "pace", None), Pace)]
        return {parameter: pace for part, pace in paced for parameter in part.parameters()}  # type: ignore[misc]

    def _fitted(self, task: str) -> FittedTask:
        return self.tasks[task] if task in self.tasks else self.read[task]

    def _said(self, task: str, features: tuple[Features, ...], said: Mapping[str, Said]) -> Said:
        """What a head says of a task's features, and of what it reads of other tasks."""
        if readings := self._fitted(task).task.depends_on:
            read = torch.cat([self._handed(name, reading, said[name]) for name, reading in readings.items()], -1)
            features = (*features[:-1], widened(features[-1], self.trunk.specs[-1], read))
        head = self.heads[self._keys[task]]
        if task not in self.state_read:
            return Said(_full(head(features)))
        if hasattr(head, "state_width"):
            output, state = head(features, with_state=True)
            return Said(_full(output), _full(state))
        return Said(_full(head(features)), pooled(features[-1], self.specs[task]))

    def _handed(self, name: str, reading: Reading, said: Said) -> Tensor:
        value = self._fitted(name).channels(said.output) if reading.what == "estimate" else said.state
        assert value is not None  # it is there where one task reads it
        return value if reading.gradient else value.detach()

    def _loss_of_hidden(self, task: str, batch: Batch, of_answers: bool) -> Tensor:
        """The loss of a task that learns from inputs of which something is hidden: in evaluation always the same."""
        fitted, draws = self.tasks[task], draws_of(self.heads[self._keys[task]])
        assert draws is not None  # every head has them
        now = draws.seed_now() if self.training else None
        inputs, target = fitted.task.hidden(batch.inputs, batch.targets[task], fitted.codec, draws.seed if now is None else now)
        seen = replace(batch, inputs=inputs, targets={**batch.targets, task: target})
        return self._loss(task, self.learned(inputs, [task])[task], seen, of_answers)

    def _loss(self, name: str, output: Tensor, batch: Batch, of_answers: bool) -> Tensor:
        fitted, target, labeled = self.tasks[name], batch.targets[name], batch.labeled[name]
        weights = batch.weights.get(name)
        if labeled is not None:
            output, target = output.index_select(0, labeled), target.index_select(0, labeled)
            weights = None if weights is None else weights.index_select(0, labeled)
        losses = (fitted.answer_losses if of_answers else fitted.losses)(output, target)
        loss = losses.mean() if weights is None else (losses * weights).mean()
        return loss * (fitted.task.weight / fitted.scale)


class Snapshots(nn.Module):
    """One network with the weights of several epochs, each for the tasks that were best with them.

    Attributes:
        tasks: All fitted tasks by name.
    """

    def __init__(self, networks: Sequence[MultiTaskModel], tasks: Sequence[str]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        fitted = {name: task for network in networks for name, task in network.tasks.items()}
        self.tasks = {name: fitted[name] for name in tasks}

    def forward(self, inputs: Sequence[Inputs], tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """As ``MultiTaskModel.forward``."""
        wanted = tuple(self.tasks) if tasks is None else tasks
        outputs: dict[str, Tensor] = {}
        for network in self.networks:
            if mine := [task for task in wanted if task in network.tasks]:  # type: ignore[operator]
                outputs |= network(inputs, mine)
        return {task: outputs[task] for task in wanted}


Network = MultiTaskModel | Snapshots


def build_model(
    encoder: Encoder,
    sharing: Sharing,
    head: Head,
    codecs: Sequence[InputCodec],
    tasks: Sequence[FittedTask],
    seed: int = 0,
    among: Sequence[str] | None = None,
    answered: Sequence[str] | None = None,
) -> MultiTaskModel:
    """Build the network from specs; its weights depend on ``seed`` and on the names of its parts only.

    Args:
        encoder: What reads the inputs.
        sharing: How the tasks share it.
        head: For the tasks that do not have one of their own.
        codecs: One per distinct set of input columns.
        tasks: The fitted tasks, with those that they read.
        seed: Of the initial weights and of dropout.
        among: All tasks that have parts in the trunk, in their order; None for those with a head.
        answered: The tasks that are not there only to be read; None for all.

    Raises:
        PolytaskError: A task reads another that does not say the same number of things of every row.
    """
    clock = Clock()
    plan = TrunkPlan(encoder, codecs, seed, clock)
    trunk = sharing.build(plan, [fitted.task.name for fitted in tasks] if among is None else among)
    members = trunk.specs[-1].members
    fitted = {f.task.name: replace(f, members=members) for f in tasks}
    heads: dict[str, nn.Module] = {}
    specs: dict[str, FeatureSpec] = {}
    for name in in_order(reads_of(f.task for f in tasks)):
        n_read = sum(
            _n_handed(fitted[other], r, heads[other], specs[other]) for other, r in fitted[name].task.depends_on.items()
        )
        specs[name] = replace(trunk.specs[-1], width=trunk.specs[-1].width + n_read)
        own = (*trunk.specs[:-1], specs[name])
        heads[name] = _build_head(fitted[name].task.head_among(head), own, fitted[name], seed, clock)
    in_turn = {name: heads[name] for name in fitted}
    return MultiTaskModel(trunk, in_turn, fitted, clock, plan.made, sharing.independent, specs=specs, answered=answered)


def outputs_on(model: Network, data: Dataset, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The outputs of a model in evaluation mode for all rows, ``[N, ...]`` per task, on the CPU."""
    parts = [outputs for _, outputs in outputs_by_batch(model, data, tasks)]
    return {task: torch.cat([part[task] for part in parts]) for task in parts[0]}


def outputs_by_batch(
    model: Network, data: Dataset, tasks: Sequence[str] | None = None
) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
    """As ``outputs_on``, batch by batch: for outputs that are larger than what is made of them. At least one batch comes."""
    if model.training:  # to go through all of its parts takes longer than to ask about a row
        model.eval()
    wanted = tuple(model.tasks) if tasks is None else tuple(tasks)
    if not data.n_rows:
        none = torch.empty(0, dtype=torch.int64, device=data.device)
        yield data.batch(none), {task: _no_outputs(model.tasks[task]) for task in wanted}
    for batch in data.batches(EVALUATION_ROWS):
        with torch.inference_mode():
            outputs = {task: output.cpu() for task, output in model(batch.inputs, wanted).items()}
        yield batch, outputs


def vectors_on(network: MultiTaskModel, data: Dataset, task: str, stage: int) -> Float[Tensor, "N D"]:
    """A task's features after one of the network's parts, stem first, pooled to a vector per row, on the CPU.

    Those of an ensemble's members are averaged.
    """
    network.eval()
    spec = network.trunk.specs[stage]
    parts = [torch.empty(0, spec.width)]
    with torch.inference_mode():
        for batch in data.batches(EVALUATION_ROWS):
            vectors = pooled(network.trunk(batch.inputs, (task,))[task][stage], spec)
            parts.append((vectors if spec.members == 1 else vectors.mean(1)).float().cpu())
    return torch.cat(parts)


def mean_losses(model: MultiTaskModel, data: Dataset) -> dict[str, float]:
    """The normalized loss of each task that has labels in ``data``, over all of them, in evaluation mode."""
    model.eval()
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    with torch.inference_mode():
        for batch in data.batches(EVALUATION_ROWS):
            for task, loss in model.losses(batch, of_answers=True).items():
                labeled = batch.labeled[task]
                n = batch.n_rows if labeled is None else len(labeled)
                weight = float(batch.weights[task][batch.present(task)].sum()) if task in batch.weights else n
                sums[task] = sums.get(task, 0.0) + float(loss) * n
                counts[task] = counts.get(task, 0) + weight
    return {task: sums[task] / counts[task] / model.tasks[task].task.weight for task in sums}


def _full(output: Tensor) -> Tensor:
    return output.float() if output.dtype == torch.bfloat16 else output


def _layers(made: Mapping[str, Sequence[nn.Module]]) -> dict[str, list[nn.Parameter]]:
    layers: dict[str, list[nn.Parameter]] = {}
    for part, modules in made.items():
        for path, layer in (pair for module in modules for pair in module.named_modules()):
            if matrices := [p for p in layer.parameters(recurse=False) if p.ndim > 1]:
                layers.setdefault(f"{part} {path}".strip(), []).extend(matrices)
    return layers


def _frozen_parts(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """These modules, or the largest parts of them, that have parameters of which none is trained."""
    for module in modules:
        trained = [parameter.requires_grad for parameter in module.parameters()]
        if trained and not any(trained):
            yield module
        else:
            yield from _frozen_parts(module.children())


def _no_outputs(fitted: FittedTask) -> Tensor:
    return torch.empty(0, *((fitted.members,) if fitted.members > 1 else ()), fitted.codec.width, *fitted.codec.space)


def _n_handed(fitted: FittedTask, reading: Reading, head: nn.Module, spec: FeatureSpec) -> int:
    """How many channels a task gives to one that reads it."""
    if reading.what == "state":
        return int(getattr(head, "state_width", spec.width))
    estimate = fitted.task.estimate(constant_output(fitted.codec, 1))
    if estimate.ndim > 2:
        found = f"{fitted.task.kind}, whose estimate of a row has {estimate.ndim - 1} axes"
        raise PolytaskError("its estimate cannot be read by another task", where=f"task {fitted.task.name!r}", found=found)
    return estimate.numel()


def _build_head(head: Head, specs: tuple[FeatureSpec, ...], fitted: FittedTask, seed: int, clock: Clock) -> nn.Module:
    name, members = fitted.task.name, specs[-1].members
    output = OutputSpec(fitted.codec.width, torch.tensor(fitted.codec.start), fitted.codec.space)
    if head.dense != bool(output.space):
        what = "a map of answers" if head.dense else "one answer for the whole row"
        wanted = "an answer at every pixel" if output.space else "one for the whole row"
        found = f"a {fitted.task.kind} task, which has {wanted}"
        mend = f"Leave the head of the task out{'' if output.space else ', or take head: linear'}."
        raise PolytaskError(f"the head {head.kind} gives {what}", where=f"task {name!r}", found=found, mend=mend)
    shared = members > 1 and not head.knows_members
    seen = tuple(replace(spec, members=1) for spec in specs) if shared else specs
    with seeded(derived_seed(seed, "weights", "head", name)):
        module = head.build(seen, output)
    module = OneForAll(module, members) if shared else module
    return seed_draws(module, derived_seed(seed, "draws", "head", name), clock)
