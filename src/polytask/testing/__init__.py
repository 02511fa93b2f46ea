"""Checks for those who write plug-ins: each puts a plug-in through its contract and raises ContractError where it breaks it.

One line is a test::

    def test_my_balancer() -> None:
        check_balancer(MyBalancer())

A check that passes says that polytask can train, save, load and predict with the plug-in; it does not say that the method is
any good.
"""

from polytask.testing._balancers import check_balancer
from polytask.testing._given import ContractError
from polytask.testing._heads import check_head
from polytask.testing._tasks import check_task
from polytask.testing._trunks import check_encoder, check_sharing

__all__ = ["ContractError", "check_balancer", "check_encoder", "check_head", "check_sharing", "check_task"]
