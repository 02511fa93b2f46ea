"""Programs of torch.export in a file that holds tensors and a graph of known operations, and nothing else.

``torch.export.load`` trusts its file: weights may be pickles, sizes are evaluated as Python, and names are pasted into code
that it makes. So a program is written with none of these, and read only if it has none.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, InputKind, InputSpec, TensorArgument
from torch.export.pt2_archive import PT2ArchiveReader

from polytask.errors import PolytaskError, shown
from polytask.export.metadata import damaged

RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/[a-z_]+|\.format_version|\.storage_alignment|models/model\.json"
    r"|data/weights/(model_weights_config\.json|weight_\d+)|data/constants/(model_constants_config\.json|tensor_\d+)"
    r"|data/sample_inputs/model\.pt"
)
GRAPH, SAMPLES = "models/model.json", "data/sample_inputs/model.pt"
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
OPERATION = re.compile(r"torch\.ops\.aten\.\w+\.\w+|_operator\.(getitem|add|sub|mul|floordiv|mod|neg|eq|ne|lt|le|gt|ge|and_)")
PLAIN = re.compile(r"[\w.+\-]*")
SIZE = re.compile(r"(Symbol\('[a-z]+\d+', (positive=True, )?integer=True\)|Integer\(-?\d+\)|(Add|Mul)\(|\)|, )*")
# What is said of how inputs and outputs are nested, which is JSON itself: tuples, and mappings by plain names.
NESTED = re.compile(r'null|builtins\.(tuple|list|dict)|\[("\w+"(, )?)*\]')
PATTERNS = {"operation": OPERATION, "expr_str": SIZE, "nested": NESTED}


def plain_program(program: ExportedProgram, inputs: Sequence[str]) -> ExportedProgram:
    """The same program with plain names for its weights, without those that it does not use, and without where it came from.

    In the file a weight's name would be made of the tasks' names.

    Args:
        program: As it was traced; it is used up.
        inputs: The names that its inputs get.
    """
    names = iter(inputs)
    graph, tensors = program.graph, {**program.state_dict, **program.constants}
    nodes = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    specs: list[InputSpec] = []
    weights: dict[str, Tensor] = {}
    for spec in program.graph_signature.input_specs:
        node = nodes[spec.arg.name]
        if spec.kind is InputKind.USER_INPUT:
            specs.append(InputSpec(spec.kind, _renamed(node, next(names)), None))
        elif not node.users:
            graph.erase_node(node)
        else:
            argument = _renamed(node, f"weight_{len(weights)}")
            weights[node.name] = tensors[spec.target].detach().clone(memory_format=torch.contiguous_format)
            specs.append(InputSpec(InputKind.BUFFER, argument, node.name, persistent=True))
    for node in graph.nodes:
        node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
    plain = ExportedProgram(
        root=program.graph_module,
        graph=graph,
        graph_signature=ExportGraphSignature(specs, program.graph_signature.output_specs),
        state_dict=weights,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph[:1],
        constants={},
        verifiers=program.verifiers,
    )
    plain._guards_code = []  # that all inputs have as many rows, as Python
    return plain


def _renamed(node: torch.fx.Node, name: str) -> TensorArgument:
    node._rename(name)
    node.target = node.name
    return TensorArgument(name=node.name)


def write_program(program: ExportedProgram, file: Path) -> None:
    """Write a plain program.

    Raises:
        OSError: It cannot be written.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, file)


def read_program(file: Path) -> ExportedProgram:
    """Read what ``write_program`` wrote, and nothing else.

    Raises:
        PolytaskError: It is missing or damaged, or holds more than tensors and a graph of known operations.
    """
    try:
        with PT2ArchiveReader(str(file)) as archive:
            strange = next(_strange(archive), None)
        if strange is not None:
            what = "the file holds more than tensors and a graph of known operations, so it is not read"
            raise PolytaskError(what, where=str(file), found=shown(strange), mend="Take a model that polytask exported.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.load(file)
    except (RuntimeError, OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise damaged(file, error) from None


def _strange(archive: Any) -> Iterator[object]:
    """What is in an archive that ``write_program`` does not write."""
    records = archive.get_file_names()
    yield from (name for name in records if not RECORDS.fullmatch(name))
    yield from (name for name in records if records.count(name) > 1)
    if archive.read_bytes(SAMPLES):
        yield SAMPLES
    for config in CONFIGS:
        for name, payload in json.loads(archive.read_string(config))["config"].items():
            if payload["use_pickle"] is not False or not re.fullmatch(r"(weight|tensor)_\d+", payload["path_name"]):
                yield name
    yield from _strange_values(json.loads(archive.read_string(GRAPH)))


def _strange_values(value: object, key: str = "") -> Iterator[object]:
    """Texts of a graph that could be more than a name, a size or a known operation."""
    if isinstance(value, dict):
        for name, part in value.items():
            if not PLAIN.fullmatch(name) or (name == "guards_code" and part):
                yield name
            operation = name == "target" and "inputs" in value
            yield from _strange_values(part, "operation" if operation else name)
    elif isinstance(value, list):
        for part in value:
            yield from _strange_values(part, key)
    elif isinstance(value, str) and key in ("in_spec", "out_spec"):
        yield from _strange_values([part for node in _nodes(json.loads(value)) for part in node], "nested")
    elif isinstance(value, str) and not PATTERNS.get(key, PLAIN).fullmatch(value):
        yield value


def _nodes(nesting: Any) -> Iterator[list[object]]:
    """The type and context of everything that is nested."""
    for part in nesting if isinstance(nesting, list) else [nesting]:
        if isinstance(part, dict):
            yield [part["type"], part["context"], *(name for name in part if name not in ("type", "context", "children_spec"))]
            yield from _nodes(part["children_spec"])
