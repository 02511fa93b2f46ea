"""Somebody's own network as an encoder."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from polytask.batch import Features, FeatureSpec, Inputs
from polytask.columns import InputCodec
from polytask.encoder import Encoder, Part, copies_of
from polytask.errors import PolytaskError


class External(Encoder):
    """Any ``nn.Module`` that maps floats ``[B, n]`` to ``[B, D]``; give the module itself where an encoder is asked for.

    It reads the numbers of the table, then one column of zeros and ones per category. A saved model holds its weights but not
    its code: ``load(path, modules={name: module})`` brings it back.
    """

    placeholder: ClassVar[bool] = True
    name: str
    module: Any = Field(default=None, exclude=True, repr=False)

    def stem(self, codec: InputCodec) -> Part:
        if self.module is None:
            mend = f"load(path, modules={{{self.name!r}: the module}})"
            raise PolytaskError(f"the encoder is the external module {self.name!r}, which is not in the file", mend=mend)
        make = copies_of(self.module)
        probe, n_numbers = ExternalStem(make(), codec).eval(), len(codec.numbers)
        try:
            with torch.no_grad():
                width = probe({"numbers": torch.zeros(2, n_numbers), "categories": _no_codes(codec)}).tensor.shape
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            n_columns = n_numbers + sum(codec.cardinalities) - len(codec.cardinalities)
            mend = f"It must read floats [B, {n_columns}]: {n_numbers} numbers, then a column of 0 and 1 per category."
            raise PolytaskError(
                "the encoder cannot read the table", where=self.name, found=f"{type(error).__name__}: {error}", mend=mend
            ) from error
        if len(width) != 2:
            mend = "Return one vector per row, [B, D]."
            raise PolytaskError(
                "the encoder does not return vectors", where=self.name, found=f"shape {tuple(width)}", mend=mend
            )
        return Part(FeatureSpec("vector", width[1]), lambda: ExternalStem(make(), codec))

    def stages(self, spec: FeatureSpec) -> list[Part]:
        return [Part(spec, nn.Identity)]


class ExternalStem(nn.Module):
    """All columns as floats, then the module."""

    def __init__(self, module: nn.Module, codec: InputCodec) -> None:
        super().__init__()
        self.module, self.cardinalities = module, codec.cardinalities

    def forward(self, inputs: Inputs) -> Features:
        codes = inputs["categories"]
        columns: list[Tensor] = [inputs["numbers"]]
        columns += [nn.functional.one_hot(codes[:, i], n)[:, 1:].float() for i, n in enumerate(self.cardinalities)]
        return Features(self.module(torch.cat(columns, 1)))


def _no_codes(codec: InputCodec) -> Tensor:
    return torch.zeros(2, len(codec.cardinalities), dtype=torch.int64)
