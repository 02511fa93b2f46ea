"""Shape annotations checked while tests run: jaxtyping binds the axes, beartype checks every argument and answer.

It is a module of its own because jaxtyping asks for the checker by its name.
"""

from __future__ import annotations

from typing import Self

from beartype import BeartypeConf, FrozenDict, beartype
from jaxtyping import install_import_hook

# Everything that handles tensors. component.py, the recipe and what reads tables are left out: there pydantic checks.
CHECKED = (
    "polytask.balancer",
    "polytask.balancers",
    "polytask.batch",
    "polytask.encoder",
    "polytask.encoders",
    "polytask.fitted",
    "polytask.gradients",
    "polytask.head",
    "polytask.heads",
    "polytask.model",
    "polytask.sharing",
    "polytask.sharings",
    "polytask.task",
    "polytask.tasks",
)

# beartype refuses `Self` outside a class it decorates itself, and an int where a float is announced, which mypy allows.
check = beartype(conf=BeartypeConf(hint_overrides=FrozenDict({Self: object}), is_pep484_tower=True))


def check_shapes() -> None:
    """Check every module of CHECKED, and the toy plug-ins; those imported before this call stay unchecked."""
    install_import_hook([*CHECKED, "tests.plugins"], typechecker=f"{__name__}.check")
