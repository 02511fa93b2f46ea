"""What is searched where a recipe does not say: what the evidence says matters, in ranges around the recipe's own values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from polytask.balancers.equal import Equal
from polytask.balancers.fixed import Fixed
from polytask.errors import PolytaskError, did_you_mean
from polytask.recipe import Recipe

Level = Literal["given", "training", "network", "all"]
LEVELS: tuple[Level, ...] = get_args(Level)
# One task may weigh so many times as much as it did, or so many times less.
WEIGHTS = 10.0
SHARINGS = ("hard", "mmoe", "ple")
BALANCERS = ("fixed", "auto", "uncertainty")


def default_searches(recipe: Recipe, level: str) -> dict[str, dict[str, Any]]:
    """The searches of a level and of those before it, by the path of their field.

    Args:
        recipe: Whose values they start at.
        level: "given", nothing but what the recipe says itself; "training": learning rate, weight decay, dropout and, where
            there are several tasks, their weights; "network": also width, depth and how many stages are shared; "all": also the
            sharing scheme and the balancer. What goes on from a run keeps its network.

    Raises:
        PolytaskError: There is no such level.

    Example:
        >>> from polytask import Frame, Regression
        >>> recipe = Recipe(sources=[Frame({"x": [1.0], "a": [2.0]})], tasks=[Regression("a")])
        >>> default_searches(recipe, "training")["trainer.optimizer.lr"]
        {'search': [0.0002, 0.01], 'log': True, 'start': 0.002}
    """
    if level not in LEVELS:
        raise PolytaskError(f"no space {level!r}", where="space", mend=did_you_mean(level, LEVELS))
    chosen = LEVELS[: LEVELS.index(level) + 1]
    found: dict[str, dict[str, Any]] = {}
    if "training" in chosen:
        found |= _of_training(recipe)
    if recipe.warm_start is not None:
        return {path: search for path, search in found.items() if not path.startswith("encoder")}
    if "network" in chosen:
        found |= _of_network(recipe)
    if "all" in chosen:
        kinds = _of_kinds(recipe, found)
        found = {path: search for path, search in found.items() if path.partition(".")[0] not in kinds} | kinds
    return found


def _of_training(recipe: Recipe) -> dict[str, dict[str, Any]]:
    lr, decay = recipe.trainer.optimizer.lr, recipe.trainer.optimizer.weight_decay
    found: dict[str, dict[str, Any]] = {
        "trainer.optimizer.lr": {"search": [lr / 10, lr * 5], "log": True, "start": lr},
        "trainer.optimizer.weight_decay": {"search": [1e-4, 0.3], "log": True, "start": decay},
    }
    if "dropout" in type(recipe.encoder).model_fields:
        found["encoder.dropout"] = {"search": [0.0, 0.5], "start": recipe.encoder.dropout}  # type: ignore[attr-defined]
    weights = _weights(recipe)
    return found | ({"balancer": {"kind": "fixed", "weights": weights}} if weights else {})


def _of_network(recipe: Recipe) -> dict[str, dict[str, Any]]:
    encoder, found = dict(recipe.encoder), {}
    if isinstance(width := encoder.get("width"), int):
        found["encoder.width"] = {"search": [max(width // 4, 1), width * 2], "log": True, "start": width}
    if isinstance(depth := encoder.get("depth"), int):
        found["encoder.depth"] = {"search": [1, max(4, depth + 1)], "start": depth}
    if recipe.sharing.kind == "hard":
        found["sharing.stages"] = _stages(recipe)
    return found


def _of_kinds(recipe: Recipe, before: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The recipe's own sharing scheme and balancer among others, with what is searched of them."""
    if len(recipe.tasks) < 2:
        return {}
    sharing = recipe.sharing.to_dict()
    if "sharing.stages" in before:
        sharing["stages"] = before["sharing.stages"]
    balancer = before.get("balancer", recipe.balancer.to_dict())
    return {
        name: {"search": [own, *(kind for kind in kinds if kind != own["kind"])], "start": own["kind"]}
        for name, own, kinds in (("sharing", sharing, SHARINGS), ("balancer", balancer, BALANCERS))
    }


def _stages(recipe: Recipe) -> dict[str, Any]:
    """All stages shared, or all but the last: counted from the end, for the depth may be searched too."""
    own, depth = recipe.sharing.stages, dict(recipe.encoder).get("depth")  # type: ignore[attr-defined]
    if own is not None and own >= 0 and isinstance(depth, int):
        own = own - depth or None
    return {"search": list(dict.fromkeys([own, None, -1])), "start": own}


def _weights(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The logarithms of the tasks' weights, of which only the differences count; none where the balancer has its own way."""
    if len(recipe.tasks) < 2 or not isinstance(recipe.balancer, Equal | Fixed):
        return {}
    own = recipe.balancer.weights if isinstance(recipe.balancer, Fixed) else {}
    weights = {task.name: own.get(task.name, 1.0) for task in recipe.tasks}
    return {name: {"search": [w / WEIGHTS, w * WEIGHTS], "log": True, "start": w} for name, w in weights.items()}
