"""Numbers and names as text: what the sections of a report share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from polytask.scores import Score, TaskScores, decimals_for, number_text

# The metrics that say most to somebody who has not met the others, best first.
TOLD_FIRST = ("accuracy", "mae", "f1", "pinball")
MAX_CELL, MAX_NAME = 48, 48


def score_texts(score: Score) -> tuple[str, str, str]:
    """A score, its interval and what a constant scores, to digits that mean something."""
    decimals = decimals_for(score.value, score.high - score.low)
    value, low, high, constant = (number_text(n, decimals) for n in (score.value, score.low, score.high, score.constant))
    return value, "-" if low == "-" else f"{low} to {high}", constant


def told(value: float, width: float = math.nan) -> str:
    """A number to three digits, or as many as the width of its interval makes sense of."""
    return number_text(value, decimals_for(value, width))


def percent(share: float, decimals: int = 0) -> str:
    """A share in percent.

    Example:
        >>> percent(0.1234), percent(float("nan"))
        ('12 %', '-')
    """
    return "-" if math.isnan(share) else f"{100 * share:.{decimals}f} %"


def signed(value: float, decimals: int = 1) -> str:
    r"""A number with its sign, a real minus.

    Example:
        >>> signed(1.25), signed(-2.0) == "\N{MINUS SIGN}2.0"
        ('+1.2', True)
    """
    return "-" if math.isnan(value) else with_minus(f"{round(value, decimals) + 0.0:+.{decimals}f}")


def against_alone(change: float | None) -> str:
    """A change of a loss in percent of that of the task alone.

    Example:
        >>> against_alone(-11.04), against_alone(3.26), against_alone(None)
        ('11.0 % lower than alone', '3.3 % higher than alone', 'not known')
    """
    if change is None or not math.isfinite(change):
        return "not known"
    return f"{abs(change):.1f} % {'lower' if change < 0 else 'higher'} than alone"


def fixed(value: float, decimals: int = 2) -> str:
    """A number with so many decimals, 0 without a sign."""
    return with_minus(f"{round(value, decimals) + 0.0:.{decimals}f}")


def with_minus(number: str) -> str:
    """A number's text with a real minus, as wide as a plus."""
    return number.replace("-", "\N{MINUS SIGN}")


def headline(task: TaskScores) -> tuple[str, Score]:
    """The metric of a task that says most to a newcomer."""
    for name in TOLD_FIRST:
        if name in task.scores and math.isfinite(task.scores[name].value):
            return name, task.scores[name]
    return next(iter(task.scores.items()))


def better_than_constant(score: Score) -> bool | None:
    """Whether a score is surely better than a constant's; None where that cannot be told."""
    if not all(map(math.isfinite, (score.low, score.high, score.constant))):
        return None
    if score.low <= score.constant <= score.high:
        return None
    return (score.value > score.constant) == score.higher_is_better


def in_words(task: TaskScores) -> str:
    """How good a task's answers are against the best constant, for somebody who knows no metrics."""
    name, score = headline(task)
    value, interval, constant = score_texts(score)
    shares = name == "accuracy"
    if shares:
        value, constant = percent(score.value, 1), percent(score.constant, 1)
        interval = f"{percent(score.low, 1)} to {percent(score.high, 1)}"
    sure = "" if math.isnan(score.low) else f" (95 % interval {interval})"
    unknown = math.isnan(score.constant)
    if name in ("mae", "abs_error"):
        against = "" if unknown else f", where the best constant is off by {constant}{_less(score)}"
        return f"Off by {value} on average{' over all pixels' if name == 'abs_error' else ''}{sure}{against}."
    if shares:
        against = "" if unknown else f"; the best constant answer is right in {constant}"
        return f"Right in {value} of the rows{sure}{against}."
    against = "" if unknown else f"; the best constant has {constant}"
    if name == "miou":
        return f"Answered and true areas overlap by {value} (intersection over union, mean over classes){sure}{against}."
    return f"{name} {value}{sure}{against}."


def _less(score: Score) -> str:
    if not score.constant > 0:
        return ""
    change = score.value / score.constant - 1
    return f": {percent(abs(change))} {'less' if change < 0 else 'more'}"


def cell_text(value: object) -> str:
    """A cell of a table of the data, on one line, cut where it is long.

    Example:
        >>> cell_text(None), cell_text(1250000.3), cell_text(47.12345), cell_text("a b")
        ('missing', '1,250,000', '47.123', 'a b')
    """
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value) if abs(value) < 10_000 else f"{value:,}"
    if isinstance(value, float):
        whole = value.is_integer() or abs(value) >= 10_000
        return f"{value:,.0f}" if whole and abs(value) < 1e12 else f"{value:,.5g}"
    text = " ".join(str(value).split())
    return text if len(text) <= MAX_CELL else f"{text[: MAX_CELL - 1]}…"


def joined(words: Iterable[str], most: int = 6) -> str:
    """Words as a sentence lists them.

    Example:
        >>> joined(["a", "b", "c"]), joined("abcdefgh", most=3)
        ('a, b and c', 'a, b, c and 5 more')
    """
    every = [short(word) for word in words]
    if len(every) > most:
        return f"{', '.join(every[:most])} and {len(every) - most} more"
    return f"{', '.join(every[:-1])} and {every[-1]}" if len(every) > 1 else "".join(every)


def short(name: str) -> str:
    """A name as it can stand in a sentence or beside a table, cut in the middle where it is very long.

    Example:
        >>> short("price"), len(short("price" * 100))
        ('price', 41)
    """
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME // 2]}…{name[-MAX_NAME // 3 :]}"


def bytes_text(count: float) -> str:
    """A number of bytes.

    Example:
        >>> bytes_text(1_500_000_000)
        '1.5 GB'
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"


def seconds_text(seconds: float) -> str:
    """How long something took.

    Example:
        >>> seconds_text(12.3), seconds_text(75), seconds_text(7500)
        ('12 s', '1 min 15 s', '2 h 5 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{whole} s"
    minutes, left = divmod(whole, 60)
    return f"{minutes} min {left} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def by_task(values: Mapping[str, float], tasks: Iterable[str]) -> list[float]:
    """The values of tasks in their order, nan where there is none."""
    return [float(values.get(task, math.nan)) for task in tasks]
