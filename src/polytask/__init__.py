"""polytask: one neural network trained on many tasks, with an honest answer whether sharing helped."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "polytask.errors": ("PolytaskError",),
    "polytask.checkpoint": ("Stopped",),
    "polytask.recipe": ("Recipe",),
    "polytask.training": ("Trainer",),
    "polytask.optimization": ("Optimizer",),
    "polytask.splitting": ("Split",),
    "polytask.images": ("Images",),
    "polytask.experiment": ("fit", "resume"),
    "polytask.run": ("Run", "load"),
    "polytask.warm_start": ("WarmStart",),
    "polytask.estimator": ("MultiTaskEstimator",),
    "polytask.evaluation.folds": ("cross_validate",),
    "polytask.tuning.tune": ("tune",),
    "polytask.export.serving": ("ExportedModel",),
    "polytask.gradients.balance": ("Balance",),
    "polytask.sources": ("CSV", "Parquet", "ARFF", "JSONL", "Frame", "Arrays", "Folder"),
    "polytask.tasks": ("Regression", "Binary", "Multiclass", "Ordinal", "Count", "Multilabel", "Quantile"),
    "polytask.encoders": ("Table", "TabM", "CNN"),
    "polytask.sharings": ("Hard",),
    "polytask.heads": ("Linear", "MLP"),
    "polytask.balancers": ("Equal", "Fixed", "Uncertainty", "DWA"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from polytask.balancers.dwa import DWA as DWA
    from polytask.balancers.equal import Equal as Equal
    from polytask.balancers.fixed import Fixed as Fixed
    from polytask.balancers.uncertainty import Uncertainty as Uncertainty
    from polytask.checkpoint import Stopped as Stopped
    from polytask.encoders.cnn import CNN as CNN
    from polytask.encoders.table import Table as Table
    from polytask.encoders.tabm import TabM as TabM
    from polytask.errors import PolytaskError as PolytaskError
    from polytask.estimator import MultiTaskEstimator as MultiTaskEstimator
    from polytask.evaluation.folds import cross_validate as cross_validate
    from polytask.experiment import fit as fit
    from polytask.experiment import resume as resume
    from polytask.export.serving import ExportedModel as ExportedModel
    from polytask.gradients.balance import Balance as Balance
    from polytask.heads.linear import Linear as Linear
    from polytask.heads.mlp import MLP as MLP
    from polytask.images import Images as Images
    from polytask.optimization import Optimizer as Optimizer
    from polytask.recipe import Recipe as Recipe
    from polytask.run import Run as Run
    from polytask.run import load as load
    from polytask.sharings.hard import Hard as Hard
    from polytask.sources.arff import ARFF as ARFF
    from polytask.sources.arrays import Arrays as Arrays
    from polytask.sources.csv import CSV as CSV
    from polytask.sources.folder import Folder as Folder
    from polytask.sources.frame import Frame as Frame
    from polytask.sources.jsonl import JSONL as JSONL
    from polytask.sources.parquet import Parquet as Parquet
    from polytask.splitting import Split as Split
    from polytask.tasks.binary import Binary as Binary
    from polytask.tasks.count import Count as Count
    from polytask.tasks.multiclass import Multiclass as Multiclass
    from polytask.tasks.multilabel import Multilabel as Multilabel
    from polytask.tasks.ordinal import Ordinal as Ordinal
    from polytask.tasks.quantile import Quantile as Quantile
    from polytask.tasks.regression import Regression as Regression
    from polytask.training import Trainer as Trainer
    from polytask.tuning.tune import tune as tune
    from polytask.warm_start import WarmStart as WarmStart


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'polytask' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
