from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polytask.batch import Batch, Dataset, Features, concatenate, masked_mean

RNG = torch.Generator().manual_seed(0)


def data(sizes: tuple[int, ...] = (6,), present: list[bool] | None = None) -> Dataset:
    """Inputs and targets that say which row they are of; a second task has all labels."""
    n_rows = sum(sizes)
    inputs, start = [], 0
    for size in sizes:
        inputs.append({"numbers": torch.arange(start, start + size, dtype=torch.float32).unsqueeze(1)})
        start += size
    row = torch.arange(n_rows, dtype=torch.float32)
    mask = torch.tensor([True, False] * n_rows if present is None else present)[:n_rows]
    return Dataset(
        tuple(inputs), {"some": row * 10, "all": row * 100}, {"some": mask, "all": torch.ones(n_rows, dtype=torch.bool)}
    )


def rows_of(batch: Batch) -> list[float]:
    return torch.cat([part["numbers"][:, 0] for part in batch.inputs]).tolist()


def test_a_batch_has_the_rows_asked_for_in_their_order() -> None:
    batch = data().batch(torch.tensor([4, 1, 2]))
    assert rows_of(batch) == [4, 1, 2]
    assert batch.n_rows == 3
    assert batch.targets["some"].tolist() == [40, 10, 20]
    labeled = batch.labeled["some"]
    assert labeled is not None
    assert labeled.tolist() == [0, 2]
    assert batch.present("some").tolist() == [True, False, True]
    assert batch.labeled["all"] is None
    assert batch.present("all").tolist() == [True, True, True]


def test_a_task_without_a_label_in_the_batch_is_not_one_of_its_tasks() -> None:
    batch = data().batch(torch.tensor([1, 3]))
    assert batch.tasks == ("all",)
    assert batch.present("some").tolist() == [False, False]


def test_where_all_rows_of_a_batch_have_a_label_there_is_no_index() -> None:
    assert data().batch(torch.tensor([0, 2, 4])).labeled == {"some": None, "all": None}


@given(st.lists(st.integers(0, 8), min_size=1, unique=True), st.permutations(range(3)))
def test_rows_of_several_input_sets_keep_their_inputs_and_targets_together(rows: list[int], order: list[int]) -> None:
    sizes = tuple((2, 3, 4)[i] for i in order)
    batch = data(sizes).batch(torch.tensor(rows))
    assert rows_of(batch) == sorted(rows)
    assert batch.targets["all"].tolist() == [100 * row for row in sorted(rows)]
    assert batch.present("some").tolist() == [row % 2 == 0 for row in sorted(rows)]


def test_an_input_set_without_rows_in_the_batch_has_tensors_without_rows() -> None:
    batch = data((2, 4)).batch(torch.tensor([5, 3]))
    assert [len(part["numbers"]) for part in batch.inputs] == [0, 2]


def test_batches_in_order_cover_every_row_once() -> None:
    batches = list(data((2, 4)).batches(4))
    assert [rows_of(batch) for batch in batches] == [[0, 1, 2, 3], [4, 5]]


def test_where_and_select_keep_what_is_left_as_it_is() -> None:
    kept = data((2, 4)).where(torch.tensor([False, True, True, False, True, True]))
    assert kept.n_rows == 4
    assert [len(part["numbers"]) for part in kept.inputs] == [1, 3]
    assert kept.targets["some"].tolist() == [10, 20, 40, 50]
    assert kept.present["some"].tolist() == [False, True, True, False]
    assert kept.select(["all"]).tasks == ("all",)
    assert kept.where(torch.zeros(4, dtype=torch.bool)).n_rows == 0


def test_a_set_without_inputs_has_no_rows() -> None:
    rows = Dataset(({}, {"numbers": torch.zeros(3, 1)}), {}, {})
    assert rows.n_rows == 3
    assert [sorted(part) for part in rows.batch(torch.arange(3)).inputs] == [[], ["numbers"]]


def test_sequences_of_two_lengths_are_padded_where_the_mask_is_false() -> None:
    short = Features(torch.ones(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))
    long = Features(torch.ones(1, 5, 4), torch.tensor([[True, True, True, True, False]]))
    both = concatenate([short, long])
    assert both.tensor.shape == (3, 5, 4)
    assert both.mask is not None
    assert both.mask.sum(1).tolist() == [3, 3, 4]
    assert masked_mean(both.tensor, both.mask).tolist() == [[1.0] * 4] * 3
    assert both.tensor[0, 3:].abs().sum() == 0


def test_sequences_of_an_ensemble_are_padded_along_their_length() -> None:
    parts = [Features(torch.ones(1, 2, n, 4), torch.ones(1, n, dtype=torch.bool)) for n in (3, 5)]
    assert concatenate(parts).tensor.shape == (2, 2, 5, 4)


def test_masked_mean_has_no_gradient_where_nothing_is() -> None:
    values = torch.randn(2, 3, 1, generator=RNG).requires_grad_()
    mask = torch.tensor([[True, False, True], [False, False, False]])
    mean = masked_mean(values, mask)
    assert mean[1].item() == 0
    assert mean[0].item() == pytest.approx((values[0, 0] + values[0, 2]).item() / 2)
    (gradient,) = torch.autograd.grad(mean.sum(), values)
    assert gradient[:, :, 0].tolist() == [[0.5, 0.0, 0.5], [0.0, 0.0, 0.0]]
