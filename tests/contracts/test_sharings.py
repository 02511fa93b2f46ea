from __future__ import annotations

import inspect
import re

import pytest

from polytask.encoder import Encoder
from polytask.sharing import Sharing
from polytask.testing import check_sharing
from tests.contracts.examples import example

ENCODERS = ["table", "toy_conv", "toy_lstm", "ensemble", "series_ensemble"]


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("kind", Sharing.kinds())
def test_sharing_keeps_its_contract_on_every_kind_of_features(kind: str, encoder: str) -> None:
    check_sharing(example(Sharing, kind), Encoder.coerce(encoder))


@pytest.mark.parametrize("encoder", [kind for kind in Encoder.kinds() if Encoder.find(kind).reads_images])
@pytest.mark.parametrize("kind", Sharing.kinds())
def test_sharing_keeps_its_contract_on_images(kind: str, encoder: str) -> None:
    check_sharing(example(Sharing, kind), example(Encoder, encoder))


@pytest.mark.parametrize("kind", [kind for kind in Sharing.kinds() if Sharing.find(kind).__module__.startswith("polytask.")])
def test_it_is_described_with_a_drawing_its_cost_and_its_paper(kind: str) -> None:
    scheme = Sharing.find(kind)
    words = inspect.getdoc(scheme) or ""
    drawing = [line for line in words.splitlines() if re.match(r"    .*(->|--|==|\+|  [x.]  )", line)]
    assert len(drawing) >= 2, "a small text drawing"
    assert re.search("parameters|weights|numbers per task|copies of a stage", words)
    assert "time" in words or "pass" in words, "what it costs"
    assert re.search(r"\d{4}", scheme.paper)


@pytest.mark.parametrize("stages", [0, 1, 2])
def test_hard_sharing_of_some_stages(stages: int) -> None:
    check_sharing(Sharing.coerce({"kind": "hard", "stages": stages}))
