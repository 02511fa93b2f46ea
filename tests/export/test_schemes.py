"""Every sharing scheme and encoder is exported and says what ``predict`` says, or is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from polytask.bundle import Bundle
from polytask.encoder import Encoder
from polytask.errors import PolytaskError
from polytask.export.agreement import check_agreement
from polytask.export.exporting import describe, write_networks
from polytask.export.metadata import Target
from polytask.export.serving import ExportedModel
from polytask.manifest import Manifest, TaskRecord
from polytask.preparation import prepare
from polytask.recipe import Recipe
from polytask.sharing import Sharing
from polytask.sources.frame import Frame
from polytask.tasks.binary import Binary
from polytask.tasks.regression import Regression
from tests.contracts.examples import example
from tests.contracts.test_sharings_at_work import asked, recipe

TINY = {"kind": "table", "width": 4, "depth": 1, "embedding": "plain"}
N_COLUMNS = 8  # five steps, of which three may be missing
OWN = nn.Sequential(nn.Linear(N_COLUMNS, 4), nn.Tanh())
# Packed sequences have as many steps as their rows say, which no graph can.
REFUSED = {
    "toy_lstm": r"encoder toy_lstm, sharing hard, head linear: torch\.export cannot take this network\. Found: TypeError"
}


def untrained(asked: Recipe) -> Bundle:
    """A network with weights that were drawn, none of them zero."""
    prepared = prepare(asked)
    records = tuple(TaskRecord(task=fitted.task, codec=fitted.codec) for fitted in prepared.tasks)
    bundle = Bundle.build(
        Manifest(
            polytask="0",
            encoder=asked.encoder,
            sharing=asked.sharing,
            head=asked.head,
            seed=0,
            inputs=prepared.inputs,
            tasks=records,
        )
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in bundle.model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return bundle


def of_images(encoder: object) -> Recipe:
    """Images with a number beside them."""
    draw = np.random.default_rng(0)
    table = {"scan": draw.integers(0, 256, (40, 8, 8)), "age": draw.normal(size=40), "price": draw.normal(size=40)}
    source = Frame({**table, "sold": np.where(table["price"] > 0, "yes", "no")})
    return Recipe(sources=[source], tasks=[Regression("price"), Binary("sold")], encoder=encoder)


def exported(bundle: Bundle, target: Target, folder: Path, *tasks: str) -> dict[str, float]:
    """Per task how far these of three are from ``predict``, once they are written."""
    metadata = describe(bundle, [], target, tasks)
    write_networks(bundle, metadata, folder)
    return check_agreement(ExportedModel(folder, threads=1), bundle, []).differences


@pytest.mark.parametrize("kind", Sharing.kinds())
def test_a_sharing_scheme_is_exported(kind: str, tmp_path: Path) -> None:
    assert asked(kind).kind == kind
    assert set(exported(untrained(recipe(kind, TINY)), "onnx", tmp_path, "sold")) == {"sold"}


@pytest.mark.parametrize("kind", Encoder.kinds())
def test_an_encoder_is_exported(kind: str, tmp_path: Path) -> None:
    encoder = OWN if kind == "external" else example(Encoder, kind)
    bundle = untrained(of_images(encoder) if Encoder.find(kind).reads_images else recipe("hard", encoder))
    if kind not in REFUSED:
        assert set(exported(bundle, "onnx", tmp_path, "price", "sold")) == {"price", "sold"}
        return
    with pytest.raises(PolytaskError, match=REFUSED[kind]):
        exported(bundle, "onnx", tmp_path, "sold")


def test_tasks_that_answer_with_networks_of_other_schemes_are_exported(tmp_path: Path) -> None:
    one, two = untrained(recipe("hard", TINY)), untrained(recipe("mmoe", {**TINY, "width": 6}))
    both = one.picked([(one, ["price", "place"]), (two, ["sold"])])
    assert set(exported(both, "torch", tmp_path, "price", "sold")) == {"price", "sold"}


@pytest.mark.parametrize("kind", ["branching", "sluice"])
def test_a_program_of_torch_is_exported(kind: str, tmp_path: Path) -> None:
    bundle = untrained(recipe(kind, {**TINY, "depth": 2}))
    assert set(exported(bundle, "torch", tmp_path, "price", "place")) == {"price", "place"}
