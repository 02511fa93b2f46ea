"""Gradient boosting per target: what a table's tasks are measured by beside networks.

scikit-learn's boosted trees (HistGradientBoosting, after LightGBM: Ke 2017) see the rows and the encoded inputs that a network
sees, and stop early on the same validation rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from torch import Tensor

from polytask.batch import Dataset, n_rows
from polytask.errors import PolytaskError
from polytask.fitted import FittedTask
from polytask.fitting import row_weights, task_losses
from polytask.preparation import Prepared

Predictor = Callable[[Dataset], Tensor]  # the outputs of a task for all rows, nan for those with other columns

OPTIONS: Mapping[str, Any] = {"max_iter": 1000, "n_iter_no_change": 20, "early_stopping": True, "random_state": 0}
PENALIZED: Mapping[str, Any] = {"learning_rate": 0.05, "l2_regularization": 1.0}
REGRESSION_LOSSES = {"absolute": "absolute_error", "huber": "squared_error", "squared": "squared_error", None: "squared_error"}
MOST_CATEGORIES = 255  # that scikit-learn's trees take as such; the codes of more are in order of frequency
SMALLEST = 1e-7  # a class that trees have not met gets this probability


def best_boosted(fitted: FittedTask, data: Prepared) -> Predictor:
    """Boosted trees as they come, or slower and with a penalty, whichever has the lower validation loss.

    Without a penalty rare classes get leaves of any size, and the log loss rises from the second round on (on kc_house's grade
    it is 0.74 on validation, with one 0.55).

    Raises:
        PolytaskError: As ``boosted``.
    """
    found = boosted(fitted, data)
    if not bool(data.validation.n_rows and data.validation.present[fitted.task.name].any()):
        return found
    both = [found, boosted(fitted, data, PENALIZED)]
    return min(both, key=lambda predict: float(task_losses(fitted, predict(data.validation), data.validation).mean()))


def boosted(fitted: FittedTask, data: Prepared, options: Mapping[str, Any] | None = None) -> Predictor:
    """Fit boosted trees to a task; they stop when the validation loss has not improved for 20 rounds.

    Squared error (absolute, for a task with that loss), Poisson deviance or log loss, with the task's weights of rows and
    classes.

    Args:
        fitted: The task, a regression, count, binary, multiclass or ordinal one.
        data: Its data.
        options: What differs from OPTIONS.

    Raises:
        PolytaskError: They do not apply: the task is of another kind, has a loss of its own, or rows of several tables.
    """
    task = fitted.task
    if task.kind not in ("regression", "count", *LOGITS):
        raise PolytaskError(f"trees here learn a number or one of several classes, and a {task.kind} task is something else")
    if callable(task.loss) or str(task.loss).startswith("external:"):
        raise PolytaskError("its loss is a function of its own, which trees cannot minimize")
    place = _one_set(task.name, data)
    categories = data.inputs[place].codec.cardinalities
    n_numbers = len(data.inputs[place].codec.numbers)
    own = {**OPTIONS, **(options or {})}
    own["categorical_features"] = [n_numbers + i for i, size in enumerate(categories) if size <= MOST_CATEGORIES]
    if fitted.codec.classes:
        model = HistGradientBoostingClassifier(**own)
    else:
        loss = "poisson" if task.kind == "count" else REGRESSION_LOSSES[task.loss]
        model = HistGradientBoostingRegressor(loss=loss, **own)
    x, y, weights = _labeled(fitted, data.training, place)
    held = _labeled(fitted, data.validation, place) if data.validation.n_rows else None
    if held is not None and len(held[1]):
        known = np.isin(held[1], y) | (not fitted.codec.classes)
        model.fit(x, y, weights, X_val=held[0][known], y_val=held[1][known], sample_weight_val=_some(held[2], known))
    else:
        model.fit(x, y, weights)
    return lambda part: _outputs(model, fitted, part, place)


def _one_set(task: str, data: Prepared) -> int:
    """Which set of input columns all rows of a task have.

    Raises:
        PolytaskError: They are of several, or no columns of a table.
    """
    there = set()
    for part in (data.training, data.validation, data.test):
        ends = np.cumsum([n_rows(inputs) for inputs in part.inputs])
        there |= set(np.searchsorted(ends, part.present[task].nonzero().squeeze(1).numpy(), side="right").tolist())
    if len(there) > 1:
        raise PolytaskError("its rows are of sources with different columns")
    place = there.pop() if there else 0
    if not set(data.training.inputs[place]) <= {"numbers", "categories"}:
        raise PolytaskError("its inputs are not the columns of a table")
    return place


def _labeled(
    fitted: FittedTask, part: Dataset, place: int
) -> tuple[NDArray[np.float64], NDArray[np.generic], NDArray[np.float64] | None]:
    """Inputs, targets and weights of the rows with a label."""
    name = fitted.task.name
    rows = part.present[name]
    target = part.targets[name][rows]
    start = sum(n_rows(inputs) for inputs in part.inputs[:place])
    x = _columns(part, place)[rows[start : start + n_rows(part.inputs[place])].numpy()]
    each, by_label = row_weights(part, name), fitted.task.row_weights(target, fitted.codec)
    weights = by_label if each is None else each if by_label is None else each * by_label
    return x, target.numpy(), None if weights is None else weights.double().numpy()


def _columns(part: Dataset, place: int) -> NDArray[np.float64]:
    columns = [values for values in part.inputs[place].values() if isinstance(values, Tensor)]  # none is of images
    return torch.cat(columns, 1).double().numpy()


def _some(weights: NDArray[np.float64] | None, rows: NDArray[np.bool_]) -> NDArray[np.float64] | None:
    return None if weights is None else weights[rows]


def _outputs(model: Any, fitted: FittedTask, part: Dataset, place: int) -> Tensor:
    """What trees say of the rows with their columns, as outputs of the task."""
    start, count = sum(n_rows(inputs) for inputs in part.inputs[:place]), n_rows(part.inputs[place])
    outputs = torch.full((part.n_rows, fitted.codec.width), torch.nan, dtype=torch.float64)
    if count:
        outputs[start : start + count] = outputs_of(model, fitted, _columns(part, place))
    return outputs


def outputs_of(model: Any, fitted: FittedTask, x: NDArray[np.float64]) -> Tensor:
    """What a fitted scikit-learn model says of some rows, as outputs of the task: values, logits or log rates."""
    if not fitted.codec.classes:
        values = torch.from_numpy(model.predict(x)).double().reshape(-1, 1)
        return values.clamp(min=SMALLEST).log() if fitted.task.kind == "count" else values
    shares = torch.full((len(x), len(fitted.codec.classes)), SMALLEST, dtype=torch.float64)
    shares[:, torch.as_tensor(model.classes_).long()] = torch.from_numpy(model.predict_proba(x)).double().clamp(min=SMALLEST)
    return LOGITS[fitted.task.kind](shares.log())


def _binary(logs: Tensor) -> Tensor:
    return logs[:, 1:] - logs[:, :1]


def _ordinal(logs: Tensor) -> Tensor:
    """The logit of going on from each class, given that it was reached."""
    at_least = logs.flip(1).logcumsumexp(1).flip(1)
    return at_least[:, 1:] - logs[:, :-1]


LOGITS: Mapping[str, Callable[[Tensor], Tensor]] = {"binary": _binary, "multiclass": lambda logs: logs, "ordinal": _ordinal}
