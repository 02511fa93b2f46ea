from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from polytask import CSV, Binary, Count, Frame, Multiclass, Ordinal, Recipe, Regression, Split
from polytask.leaks import find_leaks
from polytask.preparation import prepare
from polytask.source import Source
from polytask.task import Task
from tests.houses import houses

DRAW = np.random.default_rng(0)
N = 300
A, B, C = DRAW.normal(size=N), DRAW.normal(size=N) * 1000, DRAW.integers(0, 9, N)
TOWN = DRAW.choice(["north", "south", "lake"], N)
TABLE = pa.table({"a": A, "b": B, "c": C, "town": TOWN, "other": DRAW.normal(size=N)})


def relations(**labels: Any) -> list[str]:
    found = find_leaks(TABLE, TABLE.column_names, {name: pa.array(values, from_pandas=True) for name, values in labels.items()})
    return [f"{leak.task}: {leak.relation}" for leak in found]


@pytest.mark.parametrize(
    ("values", "relation"),
    [
        (A, "a copy of 'a'"),
        (-A, "-'a'"),
        (1.8 * A + 32, "1.8 * 'a' + 32"),
        (np.exp(A), "told by 'a': the higher the one, the higher the other"),
        (-(A**3), "told by 'a': the higher the one, the lower the other"),
        (A + B, "'a' + 'b'"),
        (B - C, "'b' - 'c'"),
        (-A - B, "- 'a' - 'b'"),
        (A + B - C, "'a' + 'b' - 'c'"),
        (TOWN, "told by 'town': each of its 3 values has one label"),
        (np.char.upper(TOWN), "told by 'town': each of its 3 values has one label"),
        ((TOWN == "lake") * 2 + (TOWN == "north"), "told by 'town': each of its 3 values has one label"),
    ],
)
def test_what_gives_a_target_away_is_named(values: Any, relation: str) -> None:
    assert relations(y=values) == [f"y: {relation}"]


@pytest.mark.parametrize("noise", [1e-3, 0.1])
def test_what_is_only_near_is_not(noise: float) -> None:
    near = A + noise * np.random.default_rng(1).normal(size=N)
    assert relations(y=near, z=near * B, towns=np.where(np.arange(N) == 7, "lake", TOWN)[::-1]) == []


def test_it_holds_in_every_row_or_not_at_all() -> None:
    rows = 50_000
    x = np.random.default_rng(2).normal(size=rows)
    y = x.copy()
    y[1] += 1  # not among the few rows that are looked at first
    assert find_leaks(pa.table({"x": x}), ["x"], {"y": pa.array(y)}) == []
    y[1] = x[1]
    assert len(find_leaks(pa.table({"x": x}), ["x"], {"y": pa.array(y)})) == 1


def test_missing_labels_hide_no_leak() -> None:
    hidden = np.arange(N) % 3 == 0
    assert relations(y=np.where(hidden, np.nan, A + B)) == ["y: 'a' + 'b'"]
    table = pa.table({"x": pa.array(np.where(hidden, np.nan, A), from_pandas=True)})
    assert len(find_leaks(table, ["x"], {"y": pa.array(A)})) == 1


def test_few_rows_and_nearly_constant_labels_prove_nothing() -> None:
    few = TABLE.slice(0, 19)
    assert find_leaks(few, few.column_names, {"y": pa.array(A[:19])}) == []
    rare = (np.arange(N) < 5).astype(float)
    table = pa.table({"x": rare, "z": A})
    assert find_leaks(table, ["x", "z"], {"y": pa.array(rare)}) == []


def test_an_input_that_sums_up_targets_is_told_once() -> None:
    table = pa.table({"total": A + B, "other": TABLE["other"]})
    found = find_leaks(table, table.column_names, {"casual": pa.array(A), "registered": pa.array(B)})
    assert [(leak.task, leak.relation, leak.inputs) for leak in found] == [("casual", "'total' - 'registered'", ("total",))]
    sums_of_targets_alone = {"a": pa.array(A), "b": pa.array(B), "sum": pa.array(A + B)}
    assert find_leaks(table.select(["other"]), ["other"], sums_of_targets_alone) == []


def test_wide_and_long_tables_are_quick() -> None:
    draw = np.random.default_rng(0)
    wide = pa.table({f"x{i}": draw.normal(size=200_000) for i in range(60)})
    labels = {"y": pa.array(wide["x3"].to_numpy() - wide["x40"].to_numpy() + wide["x59"].to_numpy())}
    labels |= {f"t{i}": pa.array(draw.normal(size=200_000)) for i in range(10)}
    began = time.perf_counter()
    assert [leak.relation for leak in find_leaks(wide, wide.column_names, labels)] == ["'x3' + 'x59' - 'x40'"]
    assert time.perf_counter() - began < 5


def test_a_run_says_what_was_done_with_its_columns() -> None:
    frame = houses(300)
    frame["country"], frame["twice"] = "Australia", 2 * frame["sqft_living"]
    frame["ticket"] = (np.arange(300) * 7919) % 100_003
    frame["code"] = [f"house {n}" for n in range(300)]
    tasks: list[Task] = [Regression("price"), Regression("sqft_living")]
    prepared = prepare(Recipe(sources=[Frame(frame)], tasks=tasks))
    assert prepared.notes == (
        "input left out, for it is the same in every training row: 'country'",
        "2 inputs left out, for they are another in every row and so only a name of it: 'id', 'code'; "
        "name its kind in columns to keep it",
        "input 'ticket' is kept, but no two rows are alike in it: drop it if it names the rows",
        "the inputs give task 'sqft_living' away: in every training row with a label it is 0.5 * 'twice'; "
        "drop 'twice' unless known when you predict",
    )
    kept = prepare(Recipe(sources=[Frame(frame)], tasks=tasks, columns={"id": "number"}, drop=["ticket", "twice", "country"]))
    assert "id" in kept.inputs[0].codec.names
    assert len(kept.notes) == 1


def test_what_was_left_out_is_not_needed_to_predict() -> None:
    frame = houses(300)
    codec = prepare(Recipe(sources=[Frame(frame)], tasks=[Regression("price")])).inputs[0].codec
    assert codec.identifiers == ("id",)
    assert "id" not in codec.names


def test_an_only_input_is_kept_even_if_it_counts_the_rows() -> None:
    frame = {"x": np.arange(200), "y": np.sin(np.arange(200) / 9)}
    assert prepare(Recipe(sources=[Frame(frame)], tasks=[Regression("y")])).inputs[0].codec.names == ("x",)


KC_SUM = "'sqft_above' + 'sqft_basement'"
WORDS = "age workclass fnlwgt education education_num marital occupation relationship race sex gain loss hours country income"
ADULT = {"header": False, "missing": ("?",), "names": WORDS.split()}


@pytest.mark.parametrize(
    ("file", "options", "tasks", "told"),
    [
        ("kc_house/kc_house_data.csv", {}, [Regression("price"), Ordinal("condition"), Binary("waterfront")], []),
        ("kc_house/kc_house_data.csv", {}, [Regression("price"), Regression("sqft_living")], [KC_SUM]),
        ("bike_sharing/hour.csv", {}, [Count("cnt")], ["'casual' + 'registered'"]),
        ("bike_sharing/hour.csv", {}, [Count("casual"), Count("registered")], ["'cnt' - 'registered'"]),
        ("adult/adult.data", ADULT, [Binary("income"), Multiclass("marital"), Regression("hours")], []),
        ("student/student-mat.csv", {}, [Regression("G3")], []),
        ("mulan_mtr/enb.arff", {}, [Regression("Y1"), Regression("Y2")], []),
        ("mulan_mtr/slump.arff", {}, [Regression("SLUMP_cm"), Regression("FLOW_cm")], []),
    ],
)
def test_real_data_have_true_alarms_only(
    shared_data: Callable[[str], Path], file: str, options: dict[str, Any], tasks: list[Task], told: list[str]
) -> None:
    folder, name = file.split("/")
    source = CSV(shared_data(folder) / name, **options) if "arff" not in name else Source.coerce(shared_data(folder) / name)
    notes = prepare(Recipe(sources=[source], tasks=tasks, split=Split(stratify=False))).notes
    leaks = [note for note in notes if "away" in note]
    assert len(leaks) == len(told)
    assert all(relation in note for relation, note in zip(told, leaks, strict=True))
