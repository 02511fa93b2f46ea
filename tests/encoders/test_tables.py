"""What is particular to the encoders of tables; that they keep the contract is in tests/contracts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional

from polytask.batch import Batch, Features, FeatureSpec
from polytask.columns import InputCodec
from polytask.encoders._table import normalized
from polytask.encoders.table import Table
from polytask.encoders.tabm import TabM
from polytask.fitted import FittedTask
from polytask.head import Head
from polytask.heads.linear import Linear
from polytask.heads.mlp import MLP
from polytask.model import MultiTaskModel, build_model
from polytask.sharings.hard import Hard
from polytask.tasks.binary import Binary
from polytask.tasks.regression import Regression

N = 40
TABLE = pa.table({"x": torch.linspace(-2, 2, N).tolist(), "kind": ["a", "b", "c", "d"] * (N // 4)})
PRICE, LATE = pa.array(torch.linspace(0, 9, N).square().tolist()), pa.array([0, 1, 1, 0] * (N // 4))
SPEC = FeatureSpec("vector", 3)
CODEC: InputCodec = InputCodec.fit(TABLE, TABLE.column_names)


def model_of(encoder: Table | TabM, head: Head | None = None) -> MultiTaskModel:
    tasks = [FittedTask.fit(Regression("price"), PRICE), FittedTask.fit(Binary("late"), LATE)]
    return build_model(encoder, Hard(), head or Linear(), [CODEC], tasks)


def batch_of(model: MultiTaskModel) -> Batch:
    targets = {n: f.task.encode({"price": PRICE, "late": LATE}[n], f.codec)[0] for n, f in model.tasks.items()}
    return Batch((CODEC.encode(TABLE),), targets, dict.fromkeys(targets), N)


def test_a_task_has_one_output_layer_per_member() -> None:
    model = model_of(TabM(width=8, members=3))
    output = model([CODEC.encode(TABLE)])["price"]
    assert output.shape == (N, 3, 1)
    assert {tuple(p.shape) for p in model.heads["task price"].parameters()} == {(3, 8, 1), (3, 1)}


def test_members_share_the_hidden_layers_of_a_head() -> None:
    head = model_of(TabM(width=8, members=3), MLP(hidden=(5,))).heads["task price"]
    assert {tuple(p.shape) for p in head.parameters()} == {(5, 8), (5,), (3, 5, 1), (3, 1)}


def test_the_loss_is_the_mean_of_the_members_and_the_estimate_their_mean() -> None:
    model = model_of(TabM(width=8, members=3)).eval()
    batch = batch_of(model)
    output, fitted = model(batch.inputs)["late"], model.tasks["late"]
    each = [
        functional.binary_cross_entropy_with_logits(member[:, 0], batch.targets["late"].float()) for member in output.unbind(1)
    ]
    torch.testing.assert_close(model.losses(batch)["late"] * fitted.codec.null_loss, torch.stack(each).mean())
    of_mean = functional.binary_cross_entropy(torch.sigmoid(output[..., 0]).mean(1), batch.targets["late"].float())
    torch.testing.assert_close(model.losses(batch, of_answers=True)["late"] * fitted.codec.null_loss, of_mean)
    torch.testing.assert_close(fitted.views(output)["probability"].float(), torch.sigmoid(output[..., 0]).mean(1))


def test_members_see_the_columns_scaled_by_factors_of_their_own() -> None:
    for embedding, factors in (("plain", {-1.0, 1.0}), ("piecewise", None)):
        stem = TabM(width=8, members=16, embedding=embedding).stem(CODEC).build()
        scale = stem.scale.weight  # type: ignore[union-attr]
        first, rest = stem.columns.widths  # type: ignore[union-attr]
        assert (first, rest) == (1 if embedding == "plain" else 12, 12)
        assert len(scale[:, :first].unique()) == (2 if factors else 16)  # a column's vector has one factor per member
        assert factors is None or set(scale.unique().tolist()) == factors


@pytest.mark.parametrize("shape", [(2, 3), (2, 4, 3)])
def test_batch_normalization_takes_each_feature_of_each_member_apart(shape: tuple[int, ...]) -> None:
    norm = normalized("batch", 3, 1 if len(shape) == 2 else shape[1]).train()
    out = norm(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(out[0], -out[1])  # of two numbers one is as far above the mean as the other is below
    torch.testing.assert_close(out.abs(), torch.ones(shape), atol=1e-2, rtol=0)


def test_a_row_alone_trains_with_batch_normalization() -> None:
    stage = TabM(width=3, members=4, normalization="batch", dropout=0.0).stages(SPEC)[0].build().train()
    one = Features(torch.randn(1, 4, 3))
    before = stage.layer[1].norm.running_mean.clone()  # type: ignore[union-attr, index]
    torch.testing.assert_close(stage(one).tensor, stage.eval()(one).tensor)
    assert torch.equal(before, stage.layer[1].norm.running_mean)  # type: ignore[union-attr, index]


def test_a_periodic_embedding_begins_with_frequencies_of_the_scale_asked_for() -> None:
    for scale in (0.01, 1.0):
        stem = Table(embedding="periodic", frequency_scale=scale).stem(CODEC).build()
        frequencies = stem.columns.numbers[0].periodic.weight  # type: ignore[union-attr, index]
        assert 0.5 * scale < float(frequencies.detach().std()) < 1.5 * scale


def test_numbers_beyond_the_training_rows_count_as_the_nearest_end() -> None:
    """Else the last piece goes on: what a date after the training rows does to a count is beyond all bounds."""
    table = pa.table({"day": np.arange(200.0), "x": np.sin(np.arange(200.0))})
    codec = InputCodec.fit(table, ["day", "x"])
    ends = codec.encode(pa.table({"day": [0.0, 199.0], "x": [0.0, 0.0]}))
    beyond = codec.encode(pa.table({"day": [-50.0, 400.0], "x": [0.0, 0.0]}))
    for encoder in (Table(width=8), TabM(width=8)):
        stem = encoder.stem(codec).build().eval()
        assert torch.equal(stem(ends).tensor, stem(beyond).tensor)
    plain = Table(width=8, embedding="plain").stem(codec).build().eval()
    assert not torch.equal(plain(ends).tensor, plain(beyond).tensor)
