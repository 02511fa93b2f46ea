from __future__ import annotations

import pytest

from polytask.batch import map_space
from polytask.errors import PolytaskError
from polytask.head import Head
from polytask.testing import check_head
from tests.contracts.examples import SPECS, example

WIDTHS = {"external": (3,), "projection": (2, 3)}  # of one number nothing is left when it is divided by its length


@pytest.mark.parametrize("features", SPECS)
@pytest.mark.parametrize("kind", Head.kinds())
def test_head_keeps_its_contract_on_every_kind_of_features(kind: str, features: str) -> None:
    head = example(Head, kind)
    if head.dense and not any(map(map_space, SPECS[features])):
        with pytest.raises(PolytaskError, match="needs an encoder with maps"):
            check_head(head, SPECS[features])
        return
    check_head(head, SPECS[features], widths=WIDTHS.get(kind, (1, 3)))
