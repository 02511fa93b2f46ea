"""A file of torch.export is read only if it holds nothing that could run."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from polytask.errors import PolytaskError
from polytask.export.program import plain_program, read_program, write_program

GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"task price in $ (net)": nn.Linear(3, 2), "task of no use": nn.Linear(3, 2)})

    def forward(self, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.layers["task price in $ (net)"](numbers)
        return output.unsqueeze(1).expand(-1, 4, -1).flatten(0, 1), output.sort(1).values


NETWORK = Tiny().eval()


def traced() -> torch.export.ExportedProgram:
    rows = torch.export.Dim("rows", min=1)
    return torch.export.export(NETWORK, (torch.randn(5, 3),), dynamic_shapes=({0: rows},))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("program") / "model.pt2"
    write_program(plain_program(traced(), ["numbers"]), file)
    return file


def changed(file: Path, to: Path, record: str, change: Any) -> Path:
    """The archive with another record: its bytes, or a function on its JSON."""
    with zipfile.ZipFile(file) as before, zipfile.ZipFile(to, "w", zipfile.ZIP_STORED) as after:
        root = before.namelist()[0].partition("/")[0]
        names = dict.fromkeys([*before.namelist(), f"{root}/{record}"])
        for name in names:
            data = before.read(name) if name in before.namelist() else b""
            if name == f"{root}/{record}":
                fields = None if isinstance(change, bytes) else json.loads(data)
                data = change if isinstance(change, bytes) else json.dumps(change(fields) or fields).encode()
            after.writestr(name, data)
    return to


def test_it_answers_as_the_network_and_has_only_what_it_needs(plain: Path) -> None:
    program = read_program(plain)
    assert list(program.state_dict) == ["weight_0", "weight_1"]
    assert program.graph_signature.user_inputs == ("numbers",)
    rows = torch.randn(7, 3)
    for one, two in zip(program.module(check_guards=False)(rows), NETWORK(rows), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert b"price" not in plain.read_bytes()


def test_what_torch_writes_by_itself_is_refused(tmp_path: Path) -> None:
    torch.export.save(traced(), tmp_path / "model.pt2")  # with pickled examples of inputs
    with pytest.raises(PolytaskError, match="so it is not read"):
        read_program(tmp_path / "model.pt2")


def with_size(fields: Any) -> Any:
    """A size that would make a file when it is evaluated."""
    text = json.dumps(fields)
    size = next(part for part in text.split('"') if part.startswith("Symbol("))
    return json.loads(text.replace(size, "open('stolen', 'w')"))


def with_operation(fields: Any) -> None:
    fields["graph_module"]["graph"]["nodes"][0]["target"] = "torch.hub.load"


def with_guard(fields: Any) -> None:
    fields["guards_code"] = ["open('stolen', 'w')"]


def with_name(fields: Any) -> Any:
    return json.loads(json.dumps(fields).replace('"weight_0"', json.dumps('a"); open("stolen", "w"); ("')))


def with_pickle(fields: Any) -> None:
    next(iter(fields["config"].values()))["use_pickle"] = True


@pytest.mark.parametrize(
    ("record", "change"),
    [
        (GRAPH, with_size),
        (GRAPH, with_operation),
        (GRAPH, with_guard),
        (GRAPH, with_name),
        (WEIGHTS, with_pickle),
        ("data/sample_inputs/model.pt", b"pickled"),
        ("data/constants/opaque_obj_0", b"pickled"),
        ("data/aotinductor/model/code.so", b"code"),
        ("data/weights/model.pt", b"pickled"),
    ],
)
def test_code_in_a_file_is_not_run(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: str, change: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    strange = changed(plain, tmp_path / "model.pt2", record, change)
    with pytest.raises(PolytaskError, match="more than tensors and a graph of known operations, so it is not read"):
        read_program(strange)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]


def test_a_copy_is_read_and_a_damaged_one_told(plain: Path, tmp_path: Path) -> None:
    assert read_program(changed(plain, tmp_path / "model.pt2", GRAPH, dict)).graph_signature.user_inputs == ("numbers",)
    (tmp_path / "model.pt2").write_bytes(plain.read_bytes()[:500])
    for place in (tmp_path / "model.pt2", tmp_path / "none.pt2"):
        with pytest.raises(PolytaskError, match="the network is missing or damaged"):
            read_program(place)
