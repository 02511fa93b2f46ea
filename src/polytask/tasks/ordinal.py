"""One of several classes in an order."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from polytask.scorer import Scorer
from polytask.task import Codec
from polytask.tasks._classes import ClassTask, calibrated, class_texts, frequencies
from polytask.tasks._metrics import ordinal_scorers


class Ordinal(ClassTask):
    """One of K ordered classes, by K-1 conditional questions: given y >= k, is y > k?

    P(y > k) is the product of the answers up to k, so the probabilities are in order whatever the network says. The loss is the
    negative log-likelihood of the row's class. CORN's authors average each question over the rows that reach it; we do not,
    so that every row counts once and the loss is comparable with a cross-entropy.

    Args:
        classes: The classes from lowest to highest; None sorts those found (numbers by size, texts by alphabet).

    Example:
        >>> import torch
        >>> Ordinal("stars").estimate(torch.zeros(1, 2))  # 1/2 stay at the lowest; of the others 1/2 go on
        tensor([[0.5000, 0.2500, 0.2500]])
    """

    paper: ClassVar[str] = "Shi, Cao and Raschka 2021 (CORN), arXiv:2111.08851, section 3"
    default_metrics: ClassVar[tuple[str, ...]] = ("accuracy", "mae", "kappa", "log_loss")

    def width(self, n_classes: int) -> int:
        return n_classes - 1

    def best_constant(self, target: Tensor, codec: Codec, weights: Float[Tensor, " N"]) -> Float[Tensor, " width"]:
        shares = frequencies(target, len(codec.classes), weights)
        at_least = shares.flip(0).cumsum(0).flip(0)
        return torch.logit(at_least[1:] / at_least[:-1]).float()

    def row_losses(self, output: Float[Tensor, "B width"], target: Tensor) -> Float[Tensor, " B"]:
        log_shares = _log_probabilities(output)
        return -log_shares.gather(1, target.unsqueeze(1)).squeeze(1)

    def estimate(self, output: Float[Tensor, "B width"]) -> Tensor:
        return _log_probabilities(output).exp()

    def merged(self, outputs: Float[Tensor, "B members width"]) -> Float[Tensor, "B width"]:
        each = _log_probabilities(outputs.flatten(0, 1)).unflatten(0, outputs.shape[:2])
        log_shares = each.logsumexp(1)
        at_least = log_shares.flip(1).logcumsumexp(1).flip(1)
        merged: Tensor = at_least[:, 1:] - log_shares[:, :-1]
        return merged

    def views(self, estimate: Tensor, codec: Codec) -> dict[str, Tensor]:
        return {"probability": calibrated(estimate, codec.temperature), "label": estimate.argmax(1)}

    def scorers(self, codec: Codec) -> dict[str, Scorer]:
        return ordinal_scorers(class_texts(codec))


def _log_probabilities(output: Float[Tensor, "B K_minus_1"]) -> Float[Tensor, "B K"]:
    """log P(y = k) = sum over j < k of log sigmoid(z_j), plus log(1 - sigmoid(z_k)) below the highest class."""
    passed = functional.pad(functional.logsigmoid(output).cumsum(1), (1, 0))
    stayed = functional.pad(functional.logsigmoid(-output), (0, 1))
    return passed + stayed
