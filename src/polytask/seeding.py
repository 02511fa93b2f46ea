"""Randomness as a function of names: every draw depends on (seed, part's name, step) and on nothing that happened before it.

So adding, hiding or dropping a task changes no other part's initial weights or dropout masks, and a resumed run repeats the
draws of an uninterrupted one without saving a generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float32, Int
from torch import Tensor, nn

_MASK = (1 << 64) - 1
GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # of splitmix64


def derived_seed(seed: int, *names: object) -> int:
    """A seed that belongs to ``names``, stable over processes and machines.

    Example:
        >>> derived_seed(0, "head", "price") == derived_seed(0, "head", "price")
        True
        >>> derived_seed(0, "head", "price") == derived_seed(0, "head", "grade")
        False
    """
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def uniform(seed: int, indices: Int[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """A number from 0 to 1, without it, for each index: a function of the seed and of it alone, on every device.

    splitmix64 (Steele 2014, doi:10.1145/2660193.2660195) at that place of its stream.

    Example:
        >>> numbers = uniform(0, torch.arange(10_000))
        >>> float(uniform(0, torch.tensor(7))) == float(numbers[7])
        True
        >>> round(float(numbers.mean()), 2), round(float(numbers.var() * 12), 2)
        (0.5, 1.0)
    """
    z = indices * _signed(GOLDEN) + _signed((seed + GOLDEN) & _MASK)
    z = (z ^ _shifted(z, 30)) * _signed(FIRST)
    z = (z ^ _shifted(z, 27)) * _signed(SECOND)
    z = z ^ _shifted(z, 31)
    return _shifted(z, 40).float() * 2**-24


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from ``seed`` inside the block; the caller's generator goes on afterwards as if nothing was drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


class Clock:
    """The training step that is going on, or None outside of training. One clock is shared by all parts of a model."""

    __slots__ = ("step",)

    def __init__(self) -> None:
        self.step: int | None = None


class Draws:
    """A hook that makes what a module draws while training a function of (``seed``, step)."""

    def __init__(self, seed: int, clock: Clock) -> None:
        self.seed, self.clock = seed, clock

    def seed_now(self) -> int | None:
        """The seed of the step that is going on; None outside of training."""
        return None if self.clock.step is None else _mixed(self.seed, self.clock.step)

    def __call__(self, part: nn.Module, _: Any) -> None:
        seed = self.seed_now()
        if seed is not None and part.training:
            _seed_generators(seed)


def seed_draws(module: nn.Module, seed: int, clock: Clock) -> nn.Module:
    """Make what ``module`` draws while training (dropout) a function of (``seed``, step)."""
    module.register_forward_pre_hook(Draws(seed, clock))
    return module


def draws_of(module: nn.Module) -> Draws | None:
    """What ``seed_draws`` gave a module."""
    return next((hook for hook in module._forward_pre_hooks.values() if isinstance(hook, Draws)), None)


def _mixed(seed: int, step: int) -> int:
    """splitmix64 (Steele 2014): neighbors give unrelated seeds, also in the low 32 bits, which torch's CPU generator reads."""
    z = (seed + GOLDEN * (step + 1)) & _MASK
    z = ((z ^ (z >> 30)) * FIRST) & _MASK
    z = ((z ^ (z >> 27)) * SECOND) & _MASK
    return (z ^ (z >> 31)) >> 1


def _signed(value: int) -> int:
    """64 bits as torch has them."""
    return value - (1 << 64) if value >> 63 else value


def _shifted(z: Int[Tensor, "*shape"], n: int) -> Int[Tensor, "*shape"]:
    """64 bits to the right by n, with zeros from the left, where torch would repeat the sign."""
    return (z >> n) & (_MASK >> n)


def _seed_generators(seed: int) -> None:
    # torch.manual_seed would format a stack trace at every call while CUDA is not initialized.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
