"""Tasks that read tasks: which ones, in what order they are computed, and what may not be."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator

from polytask.component import Settings
from polytask.errors import PolytaskError, did_you_mean, shown

if TYPE_CHECKING:
    from polytask.sharing import Sharing
    from polytask.task import Task

FORMS = "Write depends_on: click, or [click, price], or {click: {what: state, gradient: true}}."


class Reading(Settings):
    """What a task's head is handed of another task.

    Args:
        what: estimate: its probabilities, or its mean on the scale of its loss. state: what the last layer of its head sees,
            which for a linear head are the pooled features.
        gradient: Whether the loss of the task that reads also trains the one that is read; its parameters are then shared.

    Example:
        >>> Reading().what, Reading(what="state").gradient
        ('estimate', False)
    """

    what: Literal["estimate", "state"] = "estimate"
    gradient: bool = False


def _readings(value: object) -> object:
    """Names alone as a mapping of names to settings."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {value: {}}
    if isinstance(value, Mapping):
        return {name: {"what": what} if isinstance(what, str) else what or {} for name, what in value.items()}
    if isinstance(value, Sequence) and all(isinstance(name, str) for name in value):
        return {name: {} for name in value}
    raise PolytaskError("not tasks that can be read", where="depends_on", found=shown(value), mend=FORMS)


Names = str | list[str] | Mapping[str, Reading]
DependsOn = Annotated[Mapping[str, Reading], BeforeValidator(_readings, json_schema_input_type=Names)]
Reads = Mapping[str, Collection[str]]  # by task, those that it reads itself


def reads_of(tasks: Iterable[Task]) -> dict[str, tuple[str, ...]]:
    """What each of these tasks reads itself."""
    return {task.name: task.reads for task in tasks}


def handed_of(tasks: Iterable[Task]) -> dict[str, tuple[str, ...]]:
    """What the head of each of these tasks reads: what its answers depend on."""
    return {task.name: tuple(task.depends_on) for task in tasks}


def given_of(tasks: Iterable[Task]) -> dict[str, tuple[str, ...]]:
    """What each of these tasks is given: what its loss depends on."""
    return {task.name: () if task.seen_where is None else (task.seen_where,) for task in tasks}


def in_order(reads: Reads) -> list[str]:
    """All tasks, each after those that it reads.

    Raises:
        PolytaskError: Tasks read one another in a circle.

    Example:
        >>> in_order({"conversion": ["click"], "click": ["view"], "view": []})
        ['view', 'click', 'conversion']
        >>> in_order({"a": ["b"], "b": ["c"], "c": ["a"]})
        Traceback (most recent call last):
        polytask.errors.PolytaskError: tasks: they read one another in a circle. Found: 'a' reads 'b' reads 'c' reads 'a'. ...
    """
    try:
        return list(TopologicalSorter(reads).static_order())
    except CycleError as error:
        found = " reads ".join(repr(name) for name in reversed(error.args[1]))
        mend = "Take one of them out of depends_on or given."
        raise PolytaskError("they read one another in a circle", where="tasks", found=found, mend=mend) from None


def with_read(tasks: Iterable[str], reads: Reads) -> tuple[str, ...]:
    """These tasks, and after them those that they read, directly or through others.

    Example:
        >>> with_read(["conversion"], {"conversion": ["click"], "click": ["view"], "view": [], "price": []})
        ('conversion', 'click', 'view')
    """
    found = dict.fromkeys(tasks)
    waiting = list(found)
    while waiting:
        for name in reads.get(waiting.pop(0), ()):
            if name not in found:
                found[name] = None
                waiting.append(name)
    return tuple(found)


def together(tasks: Sequence[str], reads: Reads) -> list[tuple[str, ...]]:
    """These tasks in groups, of which none reads one of another.

    Example:
        >>> together(["click", "price", "conversion"], {"conversion": ["click"]})
        [('click', 'conversion'), ('price',)]
    """
    groups: list[set[str]] = []
    for task in tasks:
        group = set(with_read([task], reads))
        touched = [other for other in groups if not other.isdisjoint(group)]
        groups = [other for other in groups if other.isdisjoint(group)] + [group.union(*touched)]
    ordered = [tuple(task for task in tasks if task in group) for group in groups]
    return sorted(ordered, key=lambda group: tasks.index(group[0]))


def check_reads(tasks: Sequence[Task], sharing: Sharing, others: bool = False) -> None:
    """Whether these tasks can read what they say they read.

    Args:
        tasks: The tasks.
        sharing: How they share.
        others: Whether there may be others that they read, but for what one is given.

    Raises:
        PolytaskError: One reads itself, or a task that is not there; they read one another in a circle; or one would train
            another where nothing is shared.
    """
    known = {task.name: task for task in tasks}
    for task in tasks:
        for field, names in (("depends_on", task.depends_on), ("given", filter(None, [task.seen_where]))):
            for name in names:
                if others and field == "depends_on" and name not in known:
                    continue
                _check_read(task, f"task {task.name!r}, {field}", name, known)
    in_order(reads_of(tasks))
    if sharing.independent and (moving := [task for task in tasks if task.trains]):
        task = moving[0]
        what = f"its loss would train {task.trains[0]!r} too, and {sharing.kind} shares nothing"
        mend = "Choose another sharing, or leave out gradient: true and given."
        raise PolytaskError(what, where=f"task {task.name!r}", mend=mend)


def _check_read(task: Task, where: str, name: str, known: Mapping[str, Task]) -> None:
    if name == task.name:
        raise PolytaskError("a task cannot read itself", where=where, mend="Name another task.")
    if name not in known:
        mend = did_you_mean(name, [other for other in known if other != task.name])
        raise PolytaskError(f"no task {name!r}", where=where, mend=mend)
    if name == task.seen_where and not known[name].says_yes:
        mend = "A task is seen where another of the kind binary says yes."
        raise PolytaskError(f"{name!r} is no yes or no", where=where, found=f"a {known[name].kind} task", mend=mend)
