"""The first section: the verdict in words, for a reader who has two minutes."""

from __future__ import annotations

import math
from collections.abc import Iterator

from polytask.errors import counted
from polytask.evaluation.conflict import agreement_of, conflict_notes
from polytask.leaks import is_about_inputs
from polytask.report.answers import calibration_bins
from polytask.report.blocks import Block, Group, Mark, Section, Strips, Words
from polytask.report.comparison import COLORS, SHARING, beaten_by_trees, can_be_compared, verdicts
from polytask.report.evidence import Evidence, names_of
from polytask.report.importance import Importance
from polytask.report.words import (
    against_alone,
    better_than_constant,
    headline,
    in_words,
    joined,
    percent,
    score_texts,
    seconds_text,
    short,
)
from polytask.scores import Score, TaskScores

FEW_ROWS = 300  # judged rows of a task below which folds say more
OFF = 0.05  # mean distance of probabilities from what came true that is worth a mend
APART = 0.5  # a training loss so far below the validation loss, as a share of it, is of rows learned by heart
AT_THE_END = 0.95  # of the epochs there could be


def verdict(evidence: Evidence, importance: Importance | None) -> Section:
    """What was trained on what, how good it is, whether sharing helped, what was dropped, what to try next."""
    groups = [
        Group("", [_how_good(evidence), Words("Task by task", list(_told(evidence)))]),
        Group("What was left out", [Words("", dropped(evidence))]),
        Group("What to try next, and why", [Words("", next_steps(evidence, importance))]),
    ]
    return Section("verdict", "The verdict", lead(evidence), groups)


def lead(evidence: Evidence) -> str:
    """What was trained on what."""
    record, names = evidence.run.record, names_of(evidence.tasks)
    rows, sources = record["rows"], joined(record["data"])
    networks = evidence.run.bundle.manifest.networks
    encoders, sharings = (
        joined(dict.fromkeys(part.kind for part in parts if part is not None))
        for parts in ([one.encoder for one in networks], [one.sharing for one in networks])
    )
    what = "One network"
    if len(networks) > 1:
        several = evidence.run.bundle.manifest.snapshots
        apart = any(one.sharing is not None or one.encoder is not None for one in several)
        what = f"{len(networks)} networks" if apart else f"One network, kept with the weights of {len(networks)} epochs,"
    return (
        f"{what} learned {counted(len(names), 'task')} together ({joined(names)}) from {rows['training']:,} rows of {sources}: "
        f"encoder {encoders}, sharing {sharings}, balancer {evidence.run.recipe.balancer.kind}, "
        f"{counted(len(evidence.run.history), 'epoch')} in {seconds_text(record['seconds'])}. "
        f"It was judged on {evidence.n_judged:,} {evidence.part} rows"
        f"{' that it has not learned from' if evidence.part != 'training' else ', those it learned from: none were held out'}."
    )


def _how_good(evidence: Evidence) -> Block:
    """One line per task: its score between a constant's and a perfect one's."""
    scores, found = evidence.run.scores(), verdicts(evidence)
    marks = []
    for name in names_of(evidence.tasks):
        if name not in scores:
            marks.append(Mark(name, ("no labels", "", "", "")))
            continue
        marks.append(_mark(scores[name], found.get(name, {}).get("verdict")))
    caption = "Where the score lies between that of the best constant answer and a perfect one, with its 95 % interval."
    caption += " Green: sharing helped; orange: it hurt." if found else ""
    head = ("task", "metric", "score", "constant", "sharing")
    return Strips("How good is each task?", head, marks, 0.0, 1.0, caption, ends=("as the constant", "perfect"))


def _mark(task: TaskScores, found: str | None) -> Mark:
    metric, score = headline(task)
    value, _, constant = score_texts(score)
    places = [_between(score, number) for number in (score.value, score.low, score.high)]
    low, high = (None, None) if None in places[1:] else sorted(place for place in places[1:] if place is not None)
    texts = (metric, value, constant, SHARING.get(found or "", "not compared"))
    color = 2 if better_than_constant(score) is False else COLORS.get(found or "", 1)
    return Mark(task.task, texts, places[0], low, high, color=color)


def _between(score: Score, value: float) -> float | None:
    """Where a value lies between a constant's and a perfect score; None where that is not known."""
    perfect = 1.0 if score.higher_is_better else 0.0
    width = perfect - score.constant
    if not math.isfinite(value) or not math.isfinite(width) or width == 0 or (score.higher_is_better and score.constant > 1):
        return None
    return (value - score.constant) / width


def _told(evidence: Evidence) -> Iterator[tuple[str, str]]:
    scores, found = evidence.run.scores(), verdicts(evidence)
    for name in names_of(evidence.tasks):
        if name not in scores:
            yield f"{short(name)}.", f"No {evidence.part} row has a label, so nothing can be said."
            continue
        words = in_words(scores[name])
        if better_than_constant(headline(scores[name])[1]) is not True:
            words += " That is not surely better than the constant."
        told = found.get(name)
        if told:
            loss = f"its loss is {against_alone(told['change'])}"
            words += {"helped": f" Sharing helped: {loss}.", "hurt": f" Sharing hurt: {loss}."}.get(
                told["verdict"], f" Whether sharing helped cannot be told: {loss}, which chance may do."
            )
        yield f"{short(name)}.", words


def dropped(evidence: Evidence) -> list[tuple[str, str]]:
    """Columns, rows, labels and steps that were left out."""
    run = evidence.run
    found: list[tuple[str, str]] = []
    if run.recipe.drop:
        found.append(
            ("By the recipe:", f"{'column' if len(run.recipe.drop) == 1 else 'columns'} {joined(run.recipe.drop, 12)}.")
        )
    notes = [note for note in run.record["notes"] if "left out" in note or "no label" in note or "stays untrained" in note]
    found += [("", f"{note[:1].upper()}{note[1:]}.") for note in notes]
    return found or [("Nothing.", "Every column is an input or a label, and no step was skipped.")]


def next_steps(evidence: Evidence, importance: Importance | None) -> list[tuple[str, str]]:
    """What the evidence says is worth a try, most urgent first."""
    found = [
        *_suspicious(evidence),
        *_unlearned(evidence),
        *_sharing(evidence),
        *_balancing(evidence),
        *_training(evidence),
        *_calibration(evidence),
        *_rows(evidence),
    ]
    return found or [("Nothing stands out.", "More rows, or columns that tell something new, are what is left to try.")]


def _suspicious(evidence: Evidence) -> Iterator[tuple[str, str]]:
    given = [note for note in evidence.run.record["notes"] if is_about_inputs(note) and "give task" in note]
    if given:
        what = "Look at the columns that give a target away first:"
        told = "is" if len(given) == 1 else "are"
        yield what, f"{len(given)} {told} listed under Inputs, and scores mean little until it is settled."


def _unlearned(evidence: Evidence) -> Iterator[tuple[str, str]]:
    scores = evidence.run.scores()
    names = [name for name in scores if better_than_constant(headline(scores[name])[1]) is False or _as_good(scores[name])]
    if names:
        yield f"Look at the labels and inputs of {joined(names)}:", "the answers are not surely better than a constant."


def _as_good(task: TaskScores) -> bool:
    _, score = headline(task)
    return math.isfinite(score.low) and score.low <= score.constant <= score.high


def _sharing(evidence: Evidence) -> Iterator[tuple[str, str]]:
    if not can_be_compared(evidence):
        return
    if not evidence.compared:
        yield "Run `polytask compare` on this run:", "whether sharing helped each task cannot be told from one training."
        return
    hurt = [name for name, told in verdicts(evidence).items() if told["verdict"] == "hurt"]
    picks = {task: name for task, name in evidence.compared.get("picks", {}).items() if name != "run"}
    if hurt:
        yield (
            f"Train {joined(hurt)} apart, or share less:",
            "sharing hurt there; try sharing mmoe, ple or cross_stitch, or leave the task out.",
        )
    elif picks:
        chosen = joined(f"{name} for {task}" for task, name in picks.items())
        yield "Another way did better on the validation rows:", f"{chosen}; `polytask compare RUN --pick best` takes it."
    if trees := beaten_by_trees(evidence):
        yield (
            f"Give the network more time or width for {joined(trees)}:",
            "boosted trees do better there than a network of the task's own, so there is more to be had from these columns.",
        )


def _balancing(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for note in conflict_notes(agreement_of(evidence.run.history), evidence.run.recipe.balancer.kind):
        what, _, advice = note.rpartition(": ")
        if "hardly" not in note and what:
            yield f"{advice[:1].upper()}{advice[1:]}:", f"{what}."


def _training(evidence: Evidence) -> Iterator[tuple[str, str]]:
    run = evidence.run
    last, best = int(run.history[-1]["epoch"]), run.record.get("best_epochs", {})
    at_end = [task for task, epoch in best.items() if epoch >= AT_THE_END * last]
    if at_end and last >= int(run.history[-1].get("last", last)):
        yield (
            f"Train longer than {last} epochs:",
            f"{joined(at_end)} had the best validation loss at the very end, so more is to be had.",
        )
    by_heart = []
    for task, epoch in best.items():
        found = next((e for e in run.history if e["epoch"] == epoch), None)
        if found and found["validation"].get(task, 0) > 0 and task in found["training"]:
            gap = 1 - found["training"][task] / found["validation"][task]
            if gap > APART:
                by_heart.append(task)
    if by_heart:
        yield (
            f"Hold {joined(by_heart)} back:",
            "the training loss is less than half of the validation loss where the weights were kept; more weight decay or "
            "dropout, or a smaller network, or more rows.",
        )


def _calibration(evidence: Evidence) -> Iterator[tuple[str, str]]:
    found = []
    for name, judged in evidence.judged.items():
        if "probability" in judged.views and judged.views["probability"].ndim == 1 and len(judged.truth) >= FEW_ROWS:
            bins = calibration_bins(judged.views["probability"].astype(float), judged.truth == 1, judged.weights)
            off = sum(each["share"] * abs(each["said"] - each["true"]) for each in bins)
            if off > OFF and getattr(judged.fitted.task, "calibration", "none") is None:
                found.append((name, off))
    if found:
        told = joined(f"{name} by {percent(off, 1)}" for name, off in found)
        yield "Set calibration: temperature:", f"the probabilities are off from what came true ({told} on average)."


def _rows(evidence: Evidence) -> Iterator[tuple[str, str]]:
    scores = evidence.run.scores()
    few = [name for name in scores if scores[name].n_rows < FEW_ROWS]
    if few:
        yield (
            "Cross-validate with --folds 5:",
            f"{joined(few)} {'is' if len(few) == 1 else 'are'} judged on fewer than {FEW_ROWS} rows.",
        )
