"""An encoder of sequence features: the table's numbers as the steps of a series, which may end early."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from polytask.batch import Features, FeatureSpec, Inputs
from polytask.columns import InputCodec
from polytask.encoder import Encoder, Part


class ToyLSTM(Encoder):
    """Each number is a step. A series ends at its last cell that is not missing, and the mask says so; the first stage is an
    LSTM, the second joins neighboring steps, which halves the length and the mask.

    Args:
        width: D of every stage.
        dropout: Between the two layers of the LSTM.
    """

    kind: ClassVar[str] = "toy_lstm"
    paper: ClassVar[str] = "Hochreiter and Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735"
    width: int = Field(default=6, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)

    def stem(self, codec: InputCodec) -> Part:
        return Part(FeatureSpec("sequence", self.width), lambda: SeriesStem(codec, self.width))

    def stages(self, spec: FeatureSpec) -> list[Part]:
        return [Part(spec, lambda: Recurrent(self.width, self.dropout)), Part(spec, lambda: JoinPairs(self.width))]


class SeriesStem(nn.Module):
    def __init__(self, codec: InputCodec, width: int) -> None:
        super().__init__()
        features = codec.number_features
        self.steps = [i for i, feature in enumerate(features) if feature.part != "missing"]
        flags = {feature.column: i for i, feature in enumerate(features) if feature.part == "missing"}
        self.flags = [flags.get(features[i].column) for i in self.steps]
        self.project = nn.Linear(1, width)

    def forward(self, inputs: Inputs) -> Features:
        numbers = inputs["numbers"]
        there = [torch.ones_like(numbers[:, 0]) if i is None else 1 - numbers[:, i] for i in self.flags]
        mask = torch.stack(there, 1).flip(1).cummax(1).values.flip(1) > 0
        mask = mask.index_fill(1, torch.tensor(0), True)  # a series has one step at least
        return Features(self.project(numbers[:, self.steps].unsqueeze(2)), mask)


class Recurrent(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True, dropout=dropout)

    def forward(self, features: Features) -> Features:
        mask = _mask(features)
        packed = pack_padded_sequence(features.tensor, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        series, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=mask.shape[1])
        return Features(series, mask)


class JoinPairs(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.join = nn.Linear(2 * width, width)

    def forward(self, features: Features) -> Features:
        mask = _mask(features)
        series = features.tensor * mask.unsqueeze(2)
        odd = mask.shape[1] % 2
        series, mask = functional.pad(series, (0, 0, 0, odd)), functional.pad(mask, (0, odd))
        return Features(torch.tanh(self.join(series.unflatten(1, (-1, 2)).flatten(2))), mask.unflatten(1, (-1, 2)).any(2))


def _mask(features: Features) -> Bool[Tensor, "B L"]:
    if features.mask is None:
        raise TypeError("a sequence needs its mask")
    return features.mask
