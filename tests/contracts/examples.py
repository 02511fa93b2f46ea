"""One example of every plug-in: the built-ins, the toys of tests/plugins, and those of a package found by its entry points."""

from __future__ import annotations

import sys
from typing import Any, TypeVar

import numpy as np
from torch import nn

from polytask.batch import FeatureSpec
from polytask.component import Component
from polytask.maps import tensors
from polytask.task import Task
from tests.conftest import ROOT

C = TypeVar("C", bound=Component)

# What stands in for a package that somebody has installed.
THIRD_PARTY = str(ROOT / "tests" / "plugins" / "third_party")
if THIRD_PARTY not in sys.path:
    sys.path.append(THIRD_PARTY)

# Settings of a network of transformers, which then has weights of no file.
TINY_RESNET = {
    "model_type": "resnet",
    "embedding_size": 4,
    "hidden_sizes": [4, 6],
    "depths": [1, 1],
    "layer_type": "basic",
    "hidden_act": "gelu",
}

# Plug-ins with required fields; every other one is made without any.
FIELDS: dict[tuple[str, str], dict[str, object]] = {
    ("balancers", "fixed"): {"weights": {"b": 3.0}},
    ("encoders", "cnn"): {"widths": (4, 6), "vector": 5},
    ("encoders", "cnn_lstm"): {"widths": (4, 6), "width": 3},
    ("encoders", "resnet"): {"widths": (4, 6), "blocks": 1},
    ("encoders", "vit"): {"width": 8, "depth": 2, "heads": 2, "patch": 3},
    ("encoders", "pretrained"): {"model": "none", "config": TINY_RESNET, "rate": 1.0},
    ("encoders", "external"): {"name": "Tanh", "module": nn.Sequential(nn.Linear(7, 5), nn.Tanh())},
    ("sharings", "tree"): {"branches": {0: [["price", "late"], ["in no. of $"]]}},
    ("tasks", "clustering"): {"n_clusters": 3},
    ("heads", "upsampling"): {"width": 4},
    ("heads", "external"): {"name": "Linear", "module": nn.Linear(5, 3)},
}

SPECS = {
    "vectors": (FeatureSpec("vector", 6), FeatureSpec("vector", 5)),
    "sequences": (FeatureSpec("sequence", 6), FeatureSpec("sequence", 5)),
    "maps": (FeatureSpec("map", 6, (4, 4)), FeatureSpec("map", 5, (2, 2))),
    "maps and a vector": (FeatureSpec("map", 6, (4, 5)), FeatureSpec("map", 4, (2, 3)), FeatureSpec("vector", 5)),
    "places in sequence": (FeatureSpec("sequence", 6, grid=(2, 3)), FeatureSpec("sequence", 5, grid=(2, 3))),
}

LABELS = {
    "bits": (0, 1, 1, None, 0, 1, 1, 0, 1, None, 1, 0),
    "whole": (3, 1, 2, None, 0, 2, 3, 3, 1, 0, 7, 2),
    "floats with holes": (3.0, 1.0, 2.0, None, 1.0, 2.0),
    "fractions": (0.25, 1.5, 1e6, None, 0.25, 1.5, 3.0),
    "booleans": (True, False, None, True),
    "text": ("no", "yes", None, "yes", "yes"),
}


# Labels at every pixel: of the first row's pixels one has none, and the second row has none at all.
_draw, _missing = np.random.default_rng(0), np.arange(9) == 1
_numbers = _draw.normal(3, 1, (9, 3, 4)).clip(0.5).astype(np.float32)
_numbers[0, 0, 0] = np.nan
_codes = _draw.choice(np.array([-1, 0, 2, 7], np.int16), (9, 3, 4), p=[0.1, 0.5, 0.3, 0.1])
ARRAYS = {"codes": tensors(_codes, _missing), "numbers": tensors(_numbers, _missing)}


def labels_for(task: Task) -> Any:
    """Labels that fit a task."""
    if task.spatial in ARRAYS:
        return ARRAYS[task.spatial]
    return [None if missing else True for missing in _missing] if task.spatial == "image" else LABELS["bits"]


def example(family: type[C], kind: str) -> C:
    """An object of a plug-in, with the least that must be said."""
    fields = FIELDS.get((family.family, kind), {})
    return family.find(kind)(**({"name": "y"} | fields if family.family == "tasks" else fields))
