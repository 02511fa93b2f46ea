"""The rules of the layout that import-linter cannot say."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.shapes import CHECKED

SRC = ROOT / "src"
FAMILIES = ("sources", "tasks", "encoders", "sharings", "heads", "balancers")
MAX_LINES = 500


def named_in(file: Path) -> Iterator[str]:
    """The dotted name of everything a file imports, or reads off a module by attribute."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom():
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            case ast.Attribute():
                yield ast.unparse(node)


def siblings_named_in(file: Path, family: str) -> list[str]:
    folder = f"polytask.{family}"
    return [name for name in named_in(file) if name == folder or (name.startswith(f"{folder}.") and f"{folder}._" not in name)]


def imported_by(*arguments: str) -> set[str]:
    """The modules that ``python ARGUMENTS`` imports, run in src so that it is this checkout."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, cwd=SRC, capture_output=True, text=True, check=True)
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize("family", FAMILIES)
def test_plugins_do_not_know_their_siblings(family: str) -> None:
    plugins = [file for file in (SRC / "polytask" / family).glob("*.py") if file.name[0] != "_"]
    assert plugins
    assert {file.name: found for file in plugins if (found := siblings_named_in(file, family))} == {}


@pytest.mark.parametrize(
    "line", ["from polytask.tasks.count import Count", "from polytask.tasks import Count", "from polytask import tasks"]
)
def test_a_sibling_is_found_however_it_is_imported(line: str, tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text(f"from polytask.tasks._classes import Classes\n{line}\n")
    assert len(siblings_named_in(tmp_path / "plugin.py", "tasks")) == 1


def test_balancers_work_on_tensors_not_on_networks() -> None:
    balancers = (SRC / "polytask" / "balancers").glob("*.py")
    assert [file.name for file in balancers if any(f"{name}.".startswith("torch.nn.") for name in named_in(file))] == []


def test_only_the_version_is_read_off_the_root_package() -> None:
    # Its lazy names reach every layer, where import-linter does not see it.
    allowed = {"polytask.__version__"} | {f"polytask.{path.stem}" for path in (SRC / "polytask").iterdir()}
    files = [file for file in SRC.rglob("*.py") if file != SRC / "polytask" / "__init__.py"]
    lazy = {file.name: {name for name in named_in(file) if re.fullmatch(r"polytask\.\w+", name)} - allowed for file in files}
    assert {file: names for file, names in lazy.items() if names} == {}


def test_files_stay_readable() -> None:
    lines = {str(file.relative_to(SRC)): len(file.read_text(encoding="utf-8").splitlines()) for file in SRC.rglob("*.py")}
    assert {file: n for file, n in lines.items() if n > MAX_LINES} == {}


@pytest.mark.parametrize("arguments", [("-c", "import polytask"), ("-m", "polytask", "--help")], ids=["import", "help"])
def test_torch_is_loaded_only_when_used(arguments: tuple[str, ...]) -> None:
    modules = imported_by(*arguments)
    assert "polytask" in modules
    assert modules.isdisjoint({"torch", "torchmetrics", "sklearn", "pyarrow"})


def test_shapes_are_checked_while_tests_run() -> None:
    for name in CHECKED:
        importlib.import_module(name)
    loaded = {
        name: module for name, module in sys.modules.items() if name.startswith(CHECKED) and not hasattr(module, "__path__")
    }
    unchecked = [name for name, module in loaded.items() if not type(module.__spec__.loader).__module__.startswith("jaxtyping")]
    assert "polytask.batch" in loaded
    assert unchecked == []
