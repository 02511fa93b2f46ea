from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from polytask.seeding import Clock, derived_seed, seed_draws, seeded


def dropout(clock: Clock, *names: object, seed: int = 0) -> nn.Module:
    return seed_draws(nn.Dropout(0.5), derived_seed(seed, "draws", *names), clock)


def mask(module: nn.Module) -> Tensor:
    return module(torch.ones(256))  # type: ignore[no-any-return]


NAMES = st.lists(st.text(st.characters(exclude_characters="\x1f")), max_size=3)  # what joins names cannot be in one


@given(st.integers(0, 2**40), NAMES, NAMES)
def test_seeds_are_apart_where_names_are(seed: int, left: list[str], right: list[str]) -> None:
    assert (derived_seed(seed, *left) == derived_seed(seed, *right)) == (left == right)
    assert 0 <= derived_seed(seed, *left) < 2**63


def test_a_seed_is_the_same_in_every_process_and_version() -> None:
    assert derived_seed(7, "weights", "head", "price") == 7147380076422579438


def test_the_callers_generator_goes_on_as_if_nothing_was_drawn() -> None:
    with seeded(1):
        before = torch.get_rng_state()
        with seeded(5):
            first = torch.rand(3)
        assert torch.equal(torch.get_rng_state(), before)
        with seeded(5):
            assert torch.equal(torch.rand(3), first)


def test_draws_are_a_function_of_part_and_step() -> None:
    clock = Clock()
    price, grade = dropout(clock, "head", "price"), dropout(clock, "head", "grade")
    clock.step = 4
    with seeded(0):
        once, other, again = mask(price), mask(grade), mask(price)
        clock.step = 5
        later = mask(price)
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert not torch.equal(once, later)


def test_draws_do_not_depend_on_what_was_drawn_before() -> None:
    clock = Clock()
    clock.step = 0
    found = []
    for seed in (0, 1):
        with seeded(seed):
            torch.rand(seed + 3)
            found.append(mask(dropout(clock, "stage", 1)))
    assert torch.equal(*found)


def test_outside_of_training_nothing_is_seeded() -> None:
    clock = Clock()
    part = dropout(clock, "stage", 1)
    with seeded(3):
        assert not torch.equal(mask(part), mask(part)), "without a step dropout draws as torch does"
        clock.step = 1
        state = torch.get_rng_state()
        assert torch.equal(mask(part.eval()), torch.ones(256))
        assert torch.equal(torch.get_rng_state(), state)


def test_steps_that_are_neighbors_draw_independent_masks() -> None:
    clock = Clock()
    part = dropout(clock, "stage", 1)
    masks = []
    with seeded(0):
        for step in range(64):
            clock.step = step
            masks.append((mask(part) > 0).float())
    correlations = torch.corrcoef(torch.stack(masks)).fill_diagonal_(0)
    # 256 draws a mask: a correlation has the deviation 1/16, the largest of 2016 pairs is about 3.5 of them.
    assert correlations.abs().max() < 5 / 16
    assert abs(torch.stack(masks).mean().item() - 0.5) < 0.02
