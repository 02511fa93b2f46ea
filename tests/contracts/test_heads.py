from __future__ import annotations

import pytest

from polytask.head import Head
from polytask.testing import check_head
from tests.contracts.examples import SPECS, example


@pytest.mark.parametrize("features", SPECS)
@pytest.mark.parametrize("kind", Head.kinds())
def test_head_keeps_its_contract_on_every_kind_of_features(kind: str, features: str) -> None:
    check_head(example(Head, kind), SPECS[features], widths=(3,) if kind == "external" else (1, 3))
