"""Losses and metrics of clustering and embedding, against closed forms, brute force and scikit-learn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from polytask.errors import PolytaskError
from polytask.fitted import FittedTask
from polytask.heads import Cluster
from polytask.scores import score_task
from polytask.task import Codec
from polytask.tasks import Clustering, Embedding
from polytask.tasks import _groups as groups
from polytask.tasks.clustering import balanced_targets, dec_targets
from polytask.tasks.embedding import contrastive_losses

PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=2, max_size=60)


def codes(pairs: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    group, target = torch.tensor(pairs).unbind(1)
    return group, target


@given(PAIRS)
def test_scores_of_groups_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    group, target = codes(pairs)
    assert groups.nmi(group, target) == pytest.approx(metrics.normalized_mutual_info_score(target, group), abs=1e-9)
    assert groups.ari(group, target) == pytest.approx(metrics.adjusted_rand_score(target, group), abs=1e-9)


@given(PAIRS, st.permutations(range(6)))
def test_names_of_groups_and_rows_without_a_class_change_no_score(pairs: list[tuple[int, int]], names: list[int]) -> None:
    group, target = codes(pairs)
    more = torch.cat([torch.tensor(names)[group], torch.tensor([0, 3])]), torch.cat([target, torch.tensor([-1, -1])])
    for metric in (groups.nmi, groups.ari, groups.matched_accuracy):
        assert metric(*more) == pytest.approx(metric(group, target), abs=1e-12)
        assert metric(group, target, torch.full((len(group),), 1.0)) == pytest.approx(metric(group, target))


def test_a_row_weighs_as_many_rows_as_it_stands_for() -> None:
    draw = torch.Generator().manual_seed(0)
    group, target, weights = (torch.randint(0, 3, (40,), generator=draw) for _ in range(3))
    for metric in (groups.nmi, groups.ari, groups.matched_accuracy):
        spread = metric(group.repeat_interleave(weights), target.repeat_interleave(weights))
        assert metric(group, target, weights.double()) == pytest.approx(spread)
    distance = torch.rand(40, 3, generator=draw)
    for of_distance in (groups.silhouette, groups.evenness):
        spread = of_distance(distance.repeat_interleave(weights, 0), target)
        assert float(of_distance(distance, target, weights.double())) == pytest.approx(float(spread))


def test_accuracy_is_of_the_best_matching() -> None:
    group = torch.tensor([0, 0, 0, 1, 1, 1])
    assert groups.matched_accuracy(group, torch.tensor([1, 1, 0, 1, 0, 0])) == pytest.approx(4 / 6)
    assert groups.matched_accuracy(group, torch.zeros(6, dtype=torch.int64)) == 0.5  # two groups, and one class for one of them


def test_evenness_tells_a_collapse() -> None:
    far = torch.ones(8, 4)
    alike, one = far.clone(), far.clone()
    alike[torch.arange(8), torch.arange(8) % 4] = 0
    one[:, 2] = 0
    assert groups.evenness(alike, far) == pytest.approx(1)
    assert groups.evenness(one, far) == 0


@pytest.mark.parametrize("k", [1, 5])
def test_recall_is_that_of_the_nearest_neighbors(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "ROWS_AT_ONCE", 16)
    draw = np.random.default_rng(0)
    vectors, target = draw.normal(size=(60, 4)), draw.integers(0, 12, 60)
    target[0] = 99  # a class of one row
    near = NearestNeighbors(n_neighbors=k, metric="cosine").fit(vectors).kneighbors(return_distance=False)
    hits = (target[near] == target[:, None]).any(1).astype(float)
    found = groups.found_among(torch.from_numpy(vectors), torch.from_numpy(target), k)
    assert math.isnan(found[0])
    assert found[1:].tolist() == hits[1:].tolist()
    task = Embedding("face", width=4)
    scores = score_task(
        "face",
        "embedding",
        task.scorers(Codec()),
        {"vector": torch.from_numpy(vectors)},
        {},
        torch.from_numpy(target),
        n_resamples=200,
    )
    score = scores.scores[f"recall_at_{k}"]
    assert score.value == pytest.approx(hits[1:].mean())
    error = hits[1:].std() / math.sqrt(59)
    assert score.value - 3.5 * error < score.low < score.value < score.high < score.value + 3.5 * error  # no twin is found


def test_balanced_targets_have_rows_of_one_and_clusters_of_one_size() -> None:
    logs = torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).log_softmax(1)
    found = balanced_targets(logs, rounds=2000)
    assert torch.allclose(found.sum(1), torch.ones(40, dtype=torch.float64))
    assert torch.allclose(found.sum(0), torch.full((5,), 8.0, dtype=torch.float64), atol=1e-6)
    # Of all such tables it has the most agreement and 0.2 of its entropy: no circle of four cells is worth a change.
    gain = logs - 0.2 * found.log()
    circle = gain[:-1, :-1] - gain[1:, :-1] - gain[:-1, 1:] + gain[1:, 1:]
    assert float(circle.abs().max()) < 1e-6


def test_the_best_constant_of_balanced_targets_is_no_collapse() -> None:
    task = Clustering("group", n_clusters=4)
    target = torch.full((32,), -1)
    nothing = float(task.row_losses(torch.zeros(32, 4), target).mean())
    collapsed = float(task.row_losses(torch.tensor([0.0, -9, -9, -9]).expand(32, -1), target).mean())
    right = float(task.row_losses(torch.eye(4).repeat(8, 1) * 9, target).mean())
    assert nothing == pytest.approx(math.log(4))
    assert collapsed > 4 * nothing
    assert right < 0.01 * nothing


def test_dec_targets_are_equation_3() -> None:
    q = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    sharpened = q**2 / q.sum(0)
    assert torch.allclose(dec_targets(q.log()), sharpened / sharpened.sum(1, keepdim=True), atol=1e-6)
    output = torch.randn(20, 3, requires_grad=True)
    loss = Clustering("group", n_clusters=3, targets="dec").row_losses(output, torch.zeros(20)).sum()
    (found,) = torch.autograd.grad(loss, output)
    target = dec_targets(output.log_softmax(1).detach())
    divergence = torch.nn.functional.kl_div(output.log_softmax(1), target, reduction="sum")
    assert torch.allclose(found, torch.autograd.grad(divergence, output)[0], atol=1e-6)


def test_contrastive_loss_is_equation_2() -> None:
    draw = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(9, 3, generator=draw), dim=1)
    target, temperature = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3, 3]), 0.3
    wanted = []
    for i in range(9):
        others = [a for a in range(9) if a != i]
        total = sum(math.exp(float(vectors[i] @ vectors[a]) / temperature) for a in others)
        same = [p for p in others if target[p] == target[i]]
        each = [-math.log(math.exp(float(vectors[i] @ vectors[p]) / temperature) / total) for p in same]
        wanted.append(sum(each) / len(each) if each else 0.0)
    found = contrastive_losses(vectors, target, temperature)
    assert (found * 8 / 9).tolist() == pytest.approx(wanted, rel=1e-4)
    assert float(found.mean()) == pytest.approx(sum(wanted) / 8, rel=1e-4)  # the one of class 2 is left out


def test_student_t_and_its_beginning_by_k_means() -> None:
    from polytask.batch import Features, FeatureSpec
    from polytask.head import OutputSpec

    draw = torch.Generator().manual_seed(0)
    centers = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    vectors = (centers.unsqueeze(0) + torch.randn(50, 3, 2, generator=draw)).flatten(0, 1)
    head: Any = Cluster().build([FeatureSpec("vector", 2)], OutputSpec(3, torch.zeros(3)))
    head.begin(vectors, seed=7)
    assert sorted(map(tuple, head.centroids.detach().round().tolist())) == [(0, 0), (0, 9), (9, 0)]
    squares = torch.cdist(vectors, head.centroids.detach()).square()
    assert float(head.spread) == pytest.approx(float(squares.min(1).values.mean()), rel=1e-4)
    q = head([Features(vectors)]).softmax(1)
    similar = 1 / (1 + squares / head.spread)
    assert torch.allclose(q, similar / similar.sum(1, keepdim=True), atol=1e-4)
    views = Clustering("group", n_clusters=3).views(head([Features(vectors)]).exp().detach(), Codec(width=3))
    assert torch.allclose(views["distance"].float(), (squares / head.spread).sqrt(), atol=1e-3)
    assert groups.nmi(views["group"], torch.arange(150) % 3) == 1


def test_rows_without_a_label_teach_a_clustering_and_are_not_scored() -> None:
    task = Clustering("group", column="digit", n_clusters=2)
    table = pa.table({"digit": ["a", None, "b", "a"]})
    labels = task.labels_of(table)
    target, present = task.encode(labels, FittedTask.fit(task, labels).codec)
    assert target.tolist() == [0, -1, 1, 0]
    assert present.all()
    assert task.labels_of(pa.table({"x": [1.0, 2.0]})).null_count == 0
    assert Clustering("group").label_columns == ()
    losses = [task.row_losses(torch.eye(4, 2), each) for each in (target, target.flip(0))]
    assert torch.equal(*losses)  # of no label is anything learned


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: Clustering("g", head="linear"), "a cluster is the nearest centroid of the head cluster. Found: linear"),
        (lambda: Clustering("g", n_clusters=1), "greater than or equal to 2"),
        (lambda: Clustering("g", n_clusters=5).fit_target(pa.array([""] * 3)), "5 clusters need as many rows"),
        (lambda: Clustering("g", warmup=10).begins(5, 10), "the warm-up lasts as long as the training"),
        (lambda: Embedding("e").fit_target(pa.array(["a", "a"])), "1 different labels in 2 rows"),
        (lambda: Embedding("e").fit_target(pa.array(["a", "b"])), "it takes rows of one class, and of others"),
    ],
)
def test_mistakes(wrong: Any, words: str) -> None:
    with pytest.raises(PolytaskError) as caught:
        wrong()
    assert words in str(caught.value)
