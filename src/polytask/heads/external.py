"""Somebody's own network as a head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from polytask.batch import FeatureSpec
from polytask.encoder import copies_of
from polytask.errors import PolytaskError
from polytask.head import Head, OutputSpec, PooledHead


class External(Head):
    """Any ``nn.Module`` that maps the pooled features ``[B, D]`` of the last stage to ``[B, width]``.

    Give the module itself where a head is asked for. The saved model holds its weights, and ``load(path, modules={name:
    module})`` brings back its code.
    """

    placeholder: ClassVar[bool] = True
    name: str
    module: Any = Field(default=None, exclude=True, repr=False)

    def build(self, specs: Sequence[FeatureSpec], output: OutputSpec) -> nn.Module:
        if self.module is None:
            mend = f"load(path, modules={{{self.name!r}: the module}})"
            raise PolytaskError(f"the head is the external module {self.name!r}, which is not in the file", mend=mend)
        module = copies_of(self.module)()
        with torch.no_grad():
            shape = tuple(module.eval()(torch.zeros(2, specs[-1].width)).shape)
        if shape != (2, output.width):
            mend = f"It must map [B, {specs[-1].width}] to [B, {output.width}]."
            raise PolytaskError("the head gives another shape", where=self.name, found=f"{shape} for two rows", mend=mend)
        return PooledHead(specs[-1], module.train())
