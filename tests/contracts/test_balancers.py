from __future__ import annotations

import pytest

from polytask.balancer import Balancer
from polytask.testing import check_balancer
from tests.contracts.examples import example


@pytest.mark.parametrize("kind", Balancer.kinds())
def test_balancer_keeps_its_contract(kind: str) -> None:
    check_balancer(example(Balancer, kind))


@pytest.mark.parametrize("kind", Balancer.kinds())
def test_balancer_names_its_paper(kind: str) -> None:
    plugin = Balancer.find(kind)
    assert plugin.paper or not plugin.__module__.startswith("polytask.")
