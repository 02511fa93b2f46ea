from __future__ import annotations

import pytest

from polytask.encoder import Encoder
from polytask.testing import _given, check_encoder
from tests.contracts.examples import example


@pytest.mark.parametrize("kind", Encoder.kinds())
def test_encoder_keeps_its_contract(kind: str) -> None:
    # Somebody's own module reads one set of columns only.
    check_encoder(example(Encoder, kind), _given.tables()[:1] if kind == "external" else None)


@pytest.mark.parametrize("normalization", ["layer", "batch", "none"])
@pytest.mark.parametrize("embedding", ["piecewise", "periodic", "plain"])
@pytest.mark.parametrize("kind", ["table", "tabm"])
def test_every_embedding_and_normalization_of_tables(kind: str, embedding: str, normalization: str) -> None:
    check_encoder(Encoder.coerce({"kind": kind, "width": 8, "embedding": embedding, "normalization": normalization}))
