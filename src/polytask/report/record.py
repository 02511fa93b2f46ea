"""The fifth section: what it takes to do it again, and whom to cite."""

from __future__ import annotations

from polytask.batch import Dataset
from polytask.bundle import Bundle
from polytask.evaluation.costs import flops_per_row
from polytask.report.bibliography import ALWAYS, COMPARED, bibtex, cited, methods
from polytask.report.blocks import Group, Listing, Section, Source, Words
from polytask.report.evidence import Evidence
from polytask.report.words import bytes_text, seconds_text

N_COUNTED = 2  # rows that go through the network while multiplications are counted


def record(evidence: Evidence) -> Section:
    """Recipe, versions, seeds, fingerprints, costs, and BibTeX."""
    run = evidence.run
    known = run.record
    rows = known["rows"]
    facts = [
        ("polytask, torch, Python", ", ".join(str(known.get(name, "not known")) for name in ("polytask", "torch", "python"))),
        ("Seed", str(run.recipe.seed)),
        ("Rows", ", ".join(f"{rows[part]:,} {part}" for part in rows)),
        ("Epochs", f"{len(run.history)}; kept: {_best(evidence)}"),
        ("Time", seconds_text(known["seconds"])),
        ("Memory", _memory(evidence)),
        ("Parameters", f"{known['parameters']:,}"),
        ("FLOPs", f"{flops(run.bundle):,} a row: products and convolutions of one forward pass for all tasks"),
    ]
    if "warm_start" in known:
        facts.append(("Began with", f"{known['warm_start']['run']}, weights {known['warm_start']['weights']}"))
    data = [(label, digest) for label, digest in known["data"].items()]
    parts = [(f"{label}, which row is in which part", digest) for label, digest in known.get("parts", {}).items()]
    papers = (
        [part.paper for part in methods(run.recipe, run.bundle)] + list(ALWAYS) + list(COMPARED if evidence.compared else ())
    )
    groups = [
        Group(
            "What was done with what",
            [
                Listing("Facts", ("what", "value"), facts),
                Listing("Data fingerprints (sha256)", ("of", "digest"), [*data, *parts]),
                Words(
                    "Notes of the run", [("", f"{note[:1].upper()}{note[1:]}.") for note in known["notes"]] or [("", "None.")]
                ),
            ],
        ),
        Group(
            "To do it again, and to cite",
            [
                Source(
                    "recipe.yaml",
                    run.recipe.to_yaml(),
                    "`polytask fit recipe.yaml --out run/` with the same data gives the same run.",
                ),
                Source(
                    "BibTeX", bibtex(cited(papers)), "Of every method that was used, of the intervals and of the importances."
                ),
            ],
        ),
    ]
    return Section("record", "The record", "What it takes to do it again, what it cost, and whom to cite.", groups)


def _best(evidence: Evidence) -> str:
    best = evidence.run.record.get("best_epochs", {})
    if len(set(best.values())) <= 1:
        return f"epoch {next(iter(best.values()), 'not known')}"
    return ", ".join(f"{task} {epoch}" for task, epoch in best.items())


def _memory(evidence: Evidence) -> str:
    count = evidence.run.record.get("peak_memory")
    return "not known" if count is None else f"{bytes_text(count)} at most, the whole process"


def flops(bundle: Bundle) -> int:
    """Operations of one row's answers, on made-up rows."""
    inputs = tuple(part.codec.made_up(N_COUNTED) for part in bundle.manifest.inputs)
    return flops_per_row(bundle.model, Dataset(inputs, {}, {}))
