"""What the model card beside an exported network says of its use."""

from __future__ import annotations

from polytask.errors import listed
from polytask.export.agreement import Exported
from polytask.export.metadata import Graph, Metadata

READING = """```python
from polytask import ExportedModel

model = ExportedModel("FOLDER")
answers = model.predict("new.csv")  # or a data frame, or a list of rows, each a mapping from column to cell
```"""
BY_TARGET = {
    "onnx": """This needs `pip install onnxruntime` and polytask, of which no torch is loaded. Any other program that runs ONNX
makes the numbers and codes of the inputs from `metadata.json`, as told below.""",
    "torch": """This loads torch, and reads the file once it is known to hold tensors and operations of torch only.
`torch.export.load` reads it too, but trusts whatever file it is given.""",
}
HOW = """A number is (cell - mean) / deviation, held between -10 and 10, and 0 where the cell is missing; one with the part
"missing" is 1 there and 0 elsewhere; one with the part "hour" is the hour of a date's day. A date is its seconds since 1970. A
category is its place among the values, from 1; 0 is one that training has not, and a missing cell has the last code where the
feature says `missing`. Labels are places among the values of the answer's column, from 0."""


def use_of(metadata: Metadata, agreement: Exported) -> str:
    """How an exported network is used, and what is known of it."""
    graphs = "\n".join(map(_graph_lines, metadata.graphs))
    return f"""{READING}
{BY_TARGET[metadata.target]} Loading runs no code from the folder.

{graphs}

{HOW}

It {agreement}."""


def _graph_lines(graph: Graph) -> str:
    codec = graph.rows.codec
    shapes = {
        "numbers": f"`numbers`, float32 [N, {len(codec.numbers)}]: {listed(codec.numbers)}",
        "categories": f"`categories`, int64 [N, {len(codec.cardinalities)}]: "
        + listed(feature.name for feature in codec.category_features),
    }
    inputs = "".join(f"\n  - {shapes.get(name, name)}" for name in graph.inputs)
    outputs = "".join(f"\n  - `{name}`" for name in graph.outputs)
    return f"- `{graph.file}`, for rows of {listed(graph.rows.sources)}\n- its inputs:{inputs}\n- its outputs:{outputs}"
