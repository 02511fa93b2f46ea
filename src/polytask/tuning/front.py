"""The front over tasks: trials that no other is better than for every task, the choice of one, and the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polytask.errors import PolytaskError, did_you_mean
from polytask.tuning.trials import Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which is told apart without red and green; shapes say the same again.
STYLES = {"tuned": ("#0072B2", "o"), "equal": ("#E69F00", "s")}
DEFAULT, CHOSEN = ("#000000", "X"), "#D55E00"


def front_of(trials: Sequence[Trial], tasks: Sequence[str]) -> list[Trial]:
    """The complete trials that no other is at least as good as for every task and better for one.

    Example:
        >>> points = [(1, 3), (2, 2), (2, 3)]
        >>> trials = [Trial("tuned", i, {}, "complete", {"a": a, "b": b}, a + b, 1, 1.0) for i, (a, b) in enumerate(points)]
        >>> [trial.name for trial in front_of(trials, ["a", "b"])]
        ['tuned-0', 'tuned-1']
    """
    done = [trial for trial in trials if trial.state == "complete"]
    points = [tuple(trial.losses[task] for task in tasks) for trial in done]

    def beaten(point: tuple[float, ...]) -> bool:
        return any(other != point and all(o <= p for o, p in zip(other, point, strict=True)) for other in points)

    found = {point: trial for point, trial in reversed([*zip(points, done, strict=True)]) if not beaten(point)}
    return sorted(found.values(), key=lambda trial: trial.losses[tasks[0]])


def chosen_of(
    trials: Sequence[Trial], front: Sequence[Trial], tasks: Sequence[str], choose: str | Mapping[str, float] | None
) -> Trial:
    """A trial by its name, or that of the front with the least mean loss, where each task counts as much as is said.

    Args:
        trials: All of them.
        front: Those to choose from by preference.
        tasks: The tasks.
        choose: A trial's name, or the weight of tasks, 1 where a task is not named, as text ("price=3,grade=1") or mapping.

    Raises:
        PolytaskError: There is no such trial or task, or a weight is no number.

    Example:
        >>> points = [(1, 3), (2, 2.2)]
        >>> trials = [Trial("tuned", i, {}, "complete", {"a": a, "b": b}, a + b, 1, 1.0) for i, (a, b) in enumerate(points)]
        >>> chosen_of(trials, trials, ["a", "b"], "b=2").name, chosen_of(trials, trials, ["a", "b"], None).name
        ('tuned-1', 'tuned-0')
    """
    if isinstance(choose, str) and "=" not in choose:
        named = {trial.name: trial for trial in trials if trial.state == "complete"}
        if choose not in named:
            mend = did_you_mean(choose, [*(trial.name for trial in front), *named])
            raise PolytaskError(f"no complete trial {choose!r}", where="choose", mend=mend)
        return named[choose]
    weights = preferences(choose, tasks)
    return min(front, key=lambda trial: sum(weights[task] * trial.losses[task] for task in tasks))


def preferences(choose: str | Mapping[str, float] | None, tasks: Sequence[str]) -> dict[str, float]:
    """How much each task counts; see ``chosen_of``."""
    given: dict[str, Any] = {}
    for word in choose.split(",") if isinstance(choose, str) else ():
        name, equals, value = word.rpartition("=")
        if not equals:
            raise PolytaskError(f"{word!r} says no weight", where="choose", mend="Write it as task=weight,task=weight.")
        given[name.strip()] = value
    given |= choose if isinstance(choose, Mapping) else {}
    weights = dict.fromkeys(tasks, 1.0)
    for name, value in given.items():
        if name not in weights:
            raise PolytaskError(f"no task {name!r}", where="choose", mend=did_you_mean(name, tasks))
        try:
            weights[name] = float(value)
        except (TypeError, ValueError):
            weights[name] = -1.0
        if not 0 <= weights[name] < float("inf"):
            mend = "Give a number, 0 or more."
            raise PolytaskError(f"not a weight of task {name!r}", where="choose", found=repr(value), mend=mend)
    return weights


def draw_front(
    trials: Sequence[Trial], tasks: Sequence[str], chosen: Trial, folder: Path, weighing: str = "tuned weights"
) -> list[Path]:
    """Draw the validation losses of the trials: two tasks as points, more as a line each; ``front.svg`` and ``front.png``."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    from polytask.tuning.trials import FRONT

    done, front = [trial for trial in trials if trial.state == "complete"], front_of(trials, tasks)
    with mpl.rc_context({"svg.fonttype": "none", "font.size": 11, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(figsize=(7.5, 5.2) if len(tasks) == 2 else (max(7.5, 1.4 * len(tasks) + 3), 5.2))
        names = {"tuned": weighing, "equal": "equal weights"}
        (_points if len(tasks) == 2 else _lines)(axes, done, front, tasks, chosen, names)
        axes.set_title("Validation loss, in units of the best constant's; lower is better", fontsize=11, loc="left")
        places = [folder / f"{FRONT}.{ending}" for ending in ("svg", "png")]
        for place in places:
            figure.savefig(place, bbox_inches="tight", dpi=150)
        plt.close(figure)
    return places


def _points(
    axes: Axes, done: Sequence[Trial], front: Sequence[Trial], tasks: Sequence[str], chosen: Trial, names: Mapping[str, str]
) -> None:
    x, y = tasks
    axes.step(
        [t.losses[x] for t in front], [t.losses[y] for t in front], where="post", color="#999999", lw=1, zorder=1, label="front"
    )
    for arm, (color, marker) in STYLES.items():
        own = [trial for trial in done if trial.arm == arm and trial.number]
        if own:
            xs, ys = ([trial.losses[task] for trial in own] for task in tasks)
            faces = [color if trial in front else "none" for trial in own]
            axes.scatter(xs, ys, s=36, marker=marker, facecolors=faces, edgecolors=color, label=names[arm], zorder=2)
    first = [trial for trial in done if not trial.number][:1]
    color, marker = DEFAULT
    axes.scatter(
        [t.losses[x] for t in first],
        [t.losses[y] for t in first],
        s=80,
        marker=marker,
        color=color,
        label="default recipe",
        zorder=3,
    )
    ring = f"chosen: {chosen.name}"
    axes.scatter(
        chosen.losses[x], chosen.losses[y], s=190, facecolors="none", edgecolors=CHOSEN, linewidths=2, label=ring, zorder=4
    )
    for axis, task in zip((axes.xaxis, axes.yaxis), tasks, strict=True):
        axis.set_label_text(_short(task))
    limits = [_shown_range(done, front, task) for task in tasks]
    axes.set_xlim(*limits[0])
    axes.set_ylim(*limits[1])
    said = "filled: on the front"
    axes.legend(title=said, frameon=False, fontsize=10, alignment="left", loc="upper left", bbox_to_anchor=(1.01, 1))


def _shown_range(done: Sequence[Trial], front: Sequence[Trial], task: str) -> tuple[float, float]:
    """What is shown of an axis: the front and the default, and three quarters of the trials; the worst would hide the rest."""
    losses = sorted(trial.losses[task] for trial in done)
    needed = [trial.losses[task] for trial in done if trial in front or not trial.number]
    low, high = losses[0], max([*needed, losses[int(0.75 * (len(losses) - 1))]])
    room = 0.08 * (high - low) or 0.05 * max(abs(high), 1e-9)
    return low - room, high + room


def _lines(
    axes: Axes, done: Sequence[Trial], front: Sequence[Trial], tasks: Sequence[str], chosen: Trial, names: Mapping[str, str]
) -> None:
    """A line per trial of the front, relative to the default recipe."""
    default = next(trial for trial in done if not trial.number)
    told: set[str] = set()
    for trial in front:
        (color, marker), label = STYLES[trial.arm], names[trial.arm]
        own = trial.name == chosen.name
        values = [100 * (trial.losses[task] / default.losses[task] - 1) for task in tasks]
        name = f"chosen: {trial.name}" if own else "" if label in told else f"front, {label}"
        told |= set() if own else {label}
        color, width = (CHOSEN, 2.5) if own else (color, 1.0)
        axes.plot(
            range(len(tasks)), values, marker=marker, ms=5, label=name or "_nolegend_", color=color, lw=width, zorder=width
        )
    axes.axhline(0, color=DEFAULT[0], lw=1.2, ls="--", label="default recipe")
    turned = len(tasks) > 5 or max(map(len, tasks)) > 12
    axes.set_xticks(
        range(len(tasks)), [_short(task) for task in tasks], rotation=35 if turned else 0, ha="right" if turned else "center"
    )
    axes.set_ylabel("change against the default recipe, %")
    axes.legend(frameon=False, fontsize=10, loc="upper left", bbox_to_anchor=(1.01, 1))


def _short(name: str) -> str:
    """A name as a label: cut where it is long, and never taken for a formula."""
    cut = name if len(name) <= 30 else f"{name[:27]}..."
    return cut.replace("$", r"\$")
