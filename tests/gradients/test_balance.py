from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from polytask import Balance, PolytaskError
from polytask.balancer import Balancer
from polytask.balancers.dwa import DWA
from polytask.balancers.equal import Equal
from polytask.balancers.fixed import Fixed
from polytask.balancers.uncertainty import Uncertainty

TASKS = ("price", "grade", "sold")
VALUES = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
ALL = ["equal", "uncertainty", "dwa", "famo_like", "unit_gramian", "toy_jacobian"]


class Net(nn.Module):
    """A shared layer and a head per task; counts the backward passes through the shared layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Linear(4, 6)
        self.heads = nn.ModuleDict({task: nn.Linear(6, 1) for task in TASKS})
        self.n_backward = 0

    def losses(self, tasks: tuple[str, ...] = TASKS) -> dict[str, Tensor]:
        features = torch.tanh(self.trunk(VALUES))
        if features.requires_grad:
            features.register_hook(self._count)
        return {task: (i + 1) * self.heads[task](features).square().mean() for i, task in enumerate(TASKS) if task in tasks}

    def _count(self, gradient: Tensor) -> None:
        self.n_backward += 1

    def gradients(self) -> dict[str, Tensor]:
        return {name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None}


def of_sum(weights: dict[str, float]) -> dict[str, Tensor]:
    """The gradients of the weighted sum of losses, by the textbook."""
    net = Net()
    losses = net.losses(tuple(weights))
    torch.stack([weights[task] * loss for task, loss in losses.items()]).sum().backward()
    return net.gradients()


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name])


def stepped(balancer: Balancer | str, *batches: tuple[str, ...]) -> tuple[Net, Balance]:
    """One step per batch, each with its tasks; gradients are those of the last."""
    net = Net()
    balance = Balance(net, balancer)
    for tasks in batches:
        net.zero_grad()
        balance.backward(net.losses(tasks))
    return net, balance


def test_equal_is_the_mean_over_the_tasks_present() -> None:
    net, balance = stepped("equal", TASKS)
    assert balance.weights == pytest.approx(dict.fromkeys(TASKS, 1 / 3))
    assert_same(net.gradients(), of_sum(dict.fromkeys(TASKS, 1 / 3)))


def test_a_task_absent_from_a_batch_has_no_weight_and_no_gradient() -> None:
    net, balance = stepped("equal", TASKS, ("price", "sold"))
    assert balance.weights == {"price": 0.5, "sold": 0.5}
    assert_same(net.gradients(), of_sum({"price": 0.5, "sold": 0.5}))


@pytest.mark.parametrize("kind", ["equal", "uncertainty", "dwa", "famo_like"])
def test_a_balancer_of_losses_makes_one_backward_pass(kind: str) -> None:
    assert stepped(kind, TASKS)[0].n_backward == 1


@pytest.mark.parametrize("kind", ["unit_gramian", "toy_jacobian"])
def test_a_balancer_of_gradients_makes_one_per_task(kind: str) -> None:
    assert stepped(kind, TASKS)[0].n_backward == len(TASKS)


def test_a_balancer_of_gradients_weights_shared_parameters_and_no_head() -> None:
    net, balance = stepped("unit_gramian", TASKS)
    rows = {task: of_sum({task: 1.0}) for task in TASKS}
    norms = {
        task: sum(float(rows[task][f"trunk.{name}"].square().sum()) for name in ("weight", "bias")) ** 0.5 for task in TASKS
    }
    inverse = sum(1 / norm for norm in norms.values())
    assert balance.weights == pytest.approx({task: 1 / norms[task] / inverse for task in TASKS}, rel=1e-5)
    weighted, plain = of_sum(balance.weights), of_sum(dict.fromkeys(TASKS, 1.0))
    assert_same(net.gradients(), {name: (weighted if name.startswith("trunk") else plain)[name] for name in plain})


def test_a_balancer_of_the_jacobian_gives_the_update_of_shared_parameters() -> None:
    net, balance = stepped("toy_jacobian", TASKS)
    rows = [of_sum({task: 1.0}) for task in TASKS]
    plain = of_sum(dict.fromkeys(TASKS, 1.0))
    for name in ("trunk.weight", "trunk.bias"):
        stacked = torch.stack([row[name] for row in rows])
        disputed = (stacked > 0).any(0) & (stacked < 0).any(0)
        assert disputed.any()
        plain[name] = stacked.mean(0) * ~disputed
    assert_same(net.gradients(), plain)
    assert balance.weights == {}


@pytest.mark.parametrize("kind", ALL)
def test_a_penalty_has_weight_one(kind: str) -> None:
    plain, net = stepped(kind, TASKS)[0], Net()
    Balance(net, kind).backward(net.losses(), penalty=net.trunk.weight.square().sum())
    expected = plain.gradients()
    expected["trunk.weight"] += 2 * net.trunk.weight.detach()
    assert_same(net.gradients(), expected)


def test_gradients_accumulate_over_micro_batches() -> None:
    net = Net()
    balance = Balance(net, "unit_gramian")
    balance.backward(net.losses())
    once = net.gradients()
    balance.backward(net.losses())
    assert_same(net.gradients(), {name: 2 * value for name, value in once.items()})


def test_it_takes_parameters_or_a_network_and_an_object_or_a_kind() -> None:
    net = Net()
    given = Balance(list(net.parameters()), Equal())
    given.backward(net.losses())
    assert_same(net.gradients(), stepped("equal", TASKS)[0].gradients())


def test_fixed_weights_may_name_tasks_before_the_first_step() -> None:
    net, balance = stepped(Fixed(weights={"sold": 2.0}), TASKS)
    assert balance.weights == {"price": 0.25, "grade": 0.25, "sold": 0.5}
    assert_same(net.gradients(), of_sum(balance.weights))


def test_tasks_that_come_up_later_are_added_with_a_fresh_state() -> None:
    net = Net()
    balance = Balance(net, Uncertainty(learning_rate=0.5))
    for _ in range(3):
        balance.backward(net.losses(("price",)))
    before = balance.state_dict()["per_task"]["log_variance"].item()
    balance.backward(net.losses())
    assert balance.weights["grade"] == balance.weights["sold"] == 1.0
    assert balance.weights["price"] == pytest.approx(torch.tensor(-before).exp().item())
    assert balance.state_dict()["tasks"] == list(TASKS)


def test_the_order_of_a_batch_s_losses_does_not_matter() -> None:
    net = Net()
    balance = Balance(net, Uncertainty(learning_rate=0.5))
    balance.start(TASKS)
    for _ in range(3):
        balance.backward(dict(reversed(net.losses().items())))
    other = stepped(Uncertainty(learning_rate=0.5), TASKS, TASKS, TASKS)[1]
    assert balance.weights == pytest.approx(other.weights)


def test_tasks_that_are_left_out_of_a_new_start_are_forgotten() -> None:
    balance = stepped(Uncertainty(learning_rate=0.5), TASKS, TASKS)[1]
    before = balance.state_dict()["per_task"]["log_variance"]
    balance.start(("sold", "price"))
    assert torch.equal(balance.state_dict()["per_task"]["log_variance"], before[[2, 0]])


def test_training_goes_on_from_a_saved_state() -> None:
    whole = stepped(DWA(), TASKS, TASKS)[1]
    net = Net()
    resumed = Balance(net, DWA())
    resumed.load_state_dict(whole.state_dict())
    assert (resumed.steps, resumed.epoch) == (2, 0)
    for balance in (whole, resumed):
        balance.epoch = 1
        balance.backward(net.losses())
    assert whole.weights == resumed.weights


def test_mistakes_are_told() -> None:
    net = Net()
    with pytest.raises(PolytaskError, match="no task has a loss in this batch"):
        Balance(net, "equal").backward({})
    with pytest.raises(PolytaskError, match="this state belongs to 'equal', not to 'dwa'"):
        Balance(net, "dwa").load_state_dict(Balance(net, "equal").state_dict())
    with pytest.raises(PolytaskError, match=r"the loss of 'price': a loss is a scalar. Found: shape \(9, 1\). Take its mean."):
        Balance(net, "equal").backward({"price": net.heads["price"](torch.ones(9, 6))})
    fixed = Balance(net, Fixed(weights={"pirce": 2.0}))
    with pytest.raises(PolytaskError, match=r"no task 'pirce'\. Did you mean 'price'"):
        fixed.start(TASKS)
