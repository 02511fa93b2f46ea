"""MultiTaskModel: inputs -> encoder and sharing -> heads -> one output per task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn

from polytask.batch import Batch, Dataset, Features, FeatureSpec, Inputs, folded
from polytask.columns import InputCodec
from polytask.encoder import Encoder, TrunkPlan
from polytask.fitted import FittedTask
from polytask.head import Head
from polytask.seeding import Clock, derived_seed, seed_draws, seeded
from polytask.sharing import SharedTrunk, Sharing, module_key

EVALUATION_ROWS = 4096


class MultiTaskModel(nn.Module):
    """The network.

    Attributes:
        tasks: The fitted tasks by name.
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
    ) -> None:
        super().__init__()
        self.independent = independent
        self.trunk = trunk
        self.heads = nn.ModuleDict({module_key(name): head for name, head in heads.items()})
        self.tasks = dict(tasks)
        self.clock = clock
        self.layers = _layers(made) | {"head": [p for p in self.heads.parameters() if p.ndim > 1]}
        self._keys = {name: module_key(name) for name in heads}

    def forward(self, inputs: Sequence[Inputs], tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """The output of each of ``tasks`` (None: of all): ``[B, width]``, or ``[B, members, width]`` for an ensemble."""
        wanted = tuple(self.tasks) if tasks is None else tasks
        features = self.trunk(inputs, wanted)
        return {task: self._output(task, features[task]) for task in wanted}

    def train(self, mode: bool = True) -> Self:
        """As for any module, but parts all of whose parameters are frozen stay in evaluation mode."""
        super().train(mode)
        for part in _frozen_parts([self.trunk, self.heads]):
            part.eval()
        return self

    def losses(self, batch: Batch, of_answers: bool = False) -> dict[str, Tensor]:
        """The mean loss of each task with a label in this batch, divided by its null loss and times its weight.

        Args:
            batch: The rows.
            of_answers: Judge an ensemble by the mean of its members' estimates, not each member for itself as in training.
        """
        tasks = batch.tasks
        self.trunk.see(batch)
        outputs = self(batch.inputs, tasks)
        return {task: self._loss(task, outputs[task], batch, of_answers) for task in tasks}

    def trained_apart(self) -> dict[tuple[str, ...], list[nn.Parameter]]:
        """The parameters that are trained, by the tasks that they serve: all of them together, or each task's own."""
        trained = [(name.split("."), p) for name, p in self.named_parameters() if p.requires_grad]
        if not self.independent:
            return {tuple(self.tasks): [parameter for _, parameter in trained]}
        own = {(task,): [p for path, p in trained if key in path] for task, key in self._keys.items()}
        return {tasks: parameters for tasks, parameters in own.items() if parameters}

    def _output(self, task: str, features: tuple[Features, ...]) -> Tensor:
        return self.heads[self._keys[task]](features)  # type: ignore[no-any-return]

    def _loss(self, name: str, output: Tensor, batch: Batch, of_answers: bool) -> Tensor:
        fitted, target, labeled = self.tasks[name], batch.targets[name], batch.labeled[name]
        output = output.float() if output.dtype == torch.bfloat16 else output
        weights = batch.weights.get(name)
        if labeled is not None:
            output, target = output.index_select(0, labeled), target.index_select(0, labeled)
            weights = None if weights is None else weights.index_select(0, labeled)
        losses = (fitted.answer_losses if of_answers else fitted.losses)(output, target)
        loss = losses.mean() if weights is None else (losses * weights).mean()
        return loss * (fitted.task.weight / (fitted.codec.null_loss or 1.0))


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
) -> MultiTaskModel:
    """Build the network from specs; its weights depend on ``seed`` and on the names of its parts only.

    Args:
        encoder: What reads the inputs.
        sharing: How the tasks share it.
        head: For the tasks that do not have one of their own.
        codecs: One per distinct set of input columns.
        tasks: The fitted tasks.
        seed: Of the initial weights and of dropout.
        among: All tasks that have parts in the trunk, in their order; None for those with a head.
    """
    clock = Clock()
    plan = TrunkPlan(encoder, codecs, seed, clock)
    trunk = sharing.build(plan, [fitted.task.name for fitted in tasks] if among is None else among)
    members = trunk.specs[-1].members
    heads = {f.task.name: _build_head(f.task.head or head, trunk.specs, f, seed, clock) for f in tasks}
    return MultiTaskModel(
        trunk, heads, {f.task.name: replace(f, members=members) for f in tasks}, clock, plan.made, sharing.independent
    )


def outputs_on(model: Network, data: Dataset, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The outputs of a model in evaluation mode for all rows, ``[N, ...]`` per task, on the CPU."""
    if model.training:  # to go through all of its parts takes longer than to ask about a row
        model.eval()
    wanted = tuple(model.tasks) if tasks is None else tuple(tasks)
    parts: dict[str, list[Tensor]] = {task: [] for task in wanted}
    with torch.inference_mode():
        for batch in data.batches(EVALUATION_ROWS):
            for task, output in model(batch.inputs, wanted).items():
                parts[task].append(output.cpu())
    return {task: torch.cat(chunks) if chunks else _no_outputs(model.tasks[task]) for task, chunks in parts.items()}


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


def _layers(made: Mapping[str, Sequence[nn.Module]]) -> dict[str, list[nn.Parameter]]:
    layers: dict[str, list[nn.Parameter]] = {}
    for part, modules in made.items():
        for path, layer in (pair for module in modules for pair in module.named_modules()):
            if matrices := [p for p in layer.parameters(recurse=False) if p.ndim > 1]:
                layers.setdefault(f"{part} {path}".strip(), []).extend(matrices)
    return layers


class OneForAll(nn.Module):
    """A head that all members of an ensemble share: members are rows to it."""

    def __init__(self, head: nn.Module, members: int) -> None:
        super().__init__()
        self.head, self.members = head, members

    def forward(self, features: Sequence[Features]) -> Tensor:
        output: Tensor = self.head(tuple(folded(part, self.members) for part in features))
        return output.view(-1, self.members, *output.shape[1:])


def _frozen_parts(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """These modules, or the largest parts of them, that have parameters of which none is trained."""
    for module in modules:
        trained = [parameter.requires_grad for parameter in module.parameters()]
        if trained and not any(trained):
            yield module
        else:
            yield from _frozen_parts(module.children())


def _no_outputs(fitted: FittedTask) -> Tensor:
    return torch.empty(0, *((fitted.members,) if fitted.members > 1 else ()), fitted.codec.width)


def _build_head(head: Head, specs: tuple[FeatureSpec, ...], fitted: FittedTask, seed: int, clock: Clock) -> nn.Module:
    name, members = fitted.task.name, specs[-1].members
    shared = members > 1 and not head.knows_members
    seen = tuple(replace(spec, members=1) for spec in specs) if shared else specs
    with seeded(derived_seed(seed, "weights", "head", name)):
        module = head.build(seen, fitted.codec.width, torch.tensor(fitted.codec.start))
    module = OneForAll(module, members) if shared else module
    return seed_draws(module, derived_seed(seed, "draws", "head", name), clock)
