from __future__ import annotations

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


@pytest.mark.parametrize("stages", [0, 1, 2])
def test_hard_sharing_of_some_stages(stages: int) -> None:
    check_sharing(Sharing.coerce({"kind": "hard", "stages": stages}))
