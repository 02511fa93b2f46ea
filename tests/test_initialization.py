"""Layer-sequential unit variance: what it promises, for every encoder and sharing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polytask import Binary, Frame, Recipe, Regression
from polytask.batch import Dataset
from polytask.bundle import Bundle
from polytask.encoder import Encoder
from polytask.fitting import train_bundle
from polytask.initialization import AFFINE, N_ROWS, scale_stages
from polytask.model import MultiTaskModel, build_model
from polytask.preparation import prepare
from polytask.sharing import Sharing
from tests.houses import houses

ENCODERS: dict[str, dict[str, Any]] = {
    "deep": {"kind": "table", "width": 16, "depth": 4, "dropout": 0},
    "batch norm": {"kind": "table", "width": 16, "normalization": "batch", "dropout": 0},
    "no norm": {"kind": "table", "width": 16, "normalization": "none", "embedding": "plain", "dropout": 0},
    "tabm": {"kind": "tabm", "width": 16, "members": 3, "depth": 3, "dropout": 0},
    **{kind: {"kind": kind} for kind in ("ensemble", "toy_conv", "series_ensemble")},
    "toy_lstm": {"kind": "toy_lstm", "dropout": 0},
}


def built(seed: int = 0, **fields: Any) -> tuple[MultiTaskModel, Dataset]:
    """An untrained network and its training rows."""
    settings: dict[str, Any] = {"sources": [Frame(houses(200))], "encoder": ENCODERS["deep"], "drop": ["id"]}
    recipe = Recipe(tasks=[Regression("price"), Binary("waterfront")], **(settings | fields))
    prepared = prepare(recipe)
    codecs = [part.codec for part in prepared.inputs]
    model = build_model(recipe.encoder, recipe.sharing, recipe.head, codecs, prepared.tasks, seed)
    return model, prepared.training


def deviations(model: MultiTaskModel, data: Dataset) -> dict[str, float]:
    """The deviation of what each affine layer of stems and stages puts out at its first use, in training, without dropout."""
    found: dict[str, float] = {}
    handles = []
    parts = {part: owned for part, owned in model.layers.items() if part.startswith(("stem", "stage"))}
    weights = {id(weight) for owned in parts.values() for weight in owned}
    for name, layer in model.trunk.named_modules():
        if isinstance(layer, AFFINE) and weights & {id(weight) for weight in layer.parameters(recurse=False)}:

            def see(_: nn.Module, __: Any, output: Tensor, name: str = name) -> None:
                found.setdefault(name, float(output.std(correction=0)))

            handles.append(layer.register_forward_hook(see))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        model.train()
        model.clock.step = 0  # where a scheme draws its tree, that of the first step
        model.trunk(data.batch(torch.arange(data.n_rows)).inputs, tuple(model.tasks))
        model.clock.step = None
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("sharing", Sharing.kinds())
@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_layers_output_has_unit_variance(encoder: str, sharing: str) -> None:
    model, data = built(encoder=ENCODERS[encoder], sharing=sharing)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    before = deviations(model, data)
    scale_stages(model, data)
    after = deviations(model, data)
    assert len(after) >= 1
    assert any(abs(deviation - 1) > 0.05 for deviation in before.values())
    assert list(after.values()) == pytest.approx([1.0] * len(after), abs=1e-4)


def test_only_weights_of_stems_and_stages_change() -> None:
    model, data = built(encoder=ENCODERS["batch norm"], sharing="gated")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator, mode = torch.random.get_rng_state(), model.training
    scale_stages(model, data)
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert (model.training, model.clock.step) == (mode, None)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    affine = {name for name, module in model.trunk.named_modules() if isinstance(module, AFFINE)}
    assert changed == {f"trunk.{name}.{part}" for name in affine for part in ("weight", "bias")}


def test_the_output_is_divided_and_nothing_else() -> None:
    model, data = built()
    stem: Any = model.trunk.stem  # type: ignore[union-attr]
    inputs = data.batch(torch.arange(data.n_rows)).inputs
    with torch.no_grad():
        before = stem(inputs).tensor
        scale_stages(model, data)
        after = stem(inputs).tensor
    torch.testing.assert_close(after, before / before.std(correction=0))


def test_it_depends_on_the_seed_and_the_rows_alone() -> None:
    frame = houses(3 * N_ROWS)
    weights = []
    for seed in (0, 0, 1):
        model, data = built(sources=[Frame(frame)])
        torch.manual_seed(len(weights))
        scale_stages(model, data, seed)
        weights.append(model.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert not all(torch.equal(value, weights[2][name]) for name, value in weights[0].items())


def test_every_source_has_a_say() -> None:
    first, second = houses(2000), houses(20, seed=1)[["rooms", "lot", "price", "id"]]
    sources = [Frame(first, name="a"), Frame(second, name="b")]
    model, data = built(sources=sources, split={"validation": 0, "test": 0})
    scale_stages(model, data)
    small = data.where(data.sources["b"])
    stem: Any = model.trunk.stem  # type: ignore[union-attr]
    with torch.no_grad():
        output = stem(small.inputs).tensor
    assert float(output.std(correction=0)) == pytest.approx(1, abs=1e-4)


def test_what_does_not_vary_or_is_not_trained_stays() -> None:
    model, data = built(encoder=ENCODERS["no norm"])
    stages: Any = model.trunk.shared  # type: ignore[union-attr]
    last, frozen = stages[0].block[4], stages[1].block[1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
    frozen.requires_grad_(False)
    before = frozen.weight.clone()
    scale_stages(model, data)
    assert not bool(last.weight.any())
    assert torch.equal(frozen.weight, before)
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())


def test_a_layer_used_twice_is_scaled_once() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 8)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), layer, nn.ReLU(), layer)
    model, data = built(encoder=network, drop=["id", "suburb", "sold", "condition"])
    twice: Any = next(module for module in model.trunk.modules() if isinstance(module, nn.Sequential))
    outputs: list[float] = []
    scale_stages(model, data)
    twice[2].register_forward_hook(lambda _, __, output: outputs.append(float(output.std(correction=0))))
    with torch.no_grad():
        model.trunk(data.batch(torch.arange(data.n_rows)).inputs, tuple(model.tasks))
    assert outputs[0] == pytest.approx(1, abs=1e-4)
    assert abs(outputs[1] - 1) > 0.05


def test_a_recipe_asks_for_it() -> None:
    def trained(**trainer: Any) -> tuple[Bundle, float]:
        recipe = Recipe(sources=[Frame(houses(200))], tasks=[Regression("price")], trainer={"epochs": 3, **trainer})
        bundle, history = train_bundle(recipe, prepare(recipe))
        return bundle, history[-1].training["price"]

    plain, scaled = trained()[1], trained(scale_stages=True)[1]
    assert plain == trained(scale_stages=False)[1]
    assert plain != scaled
    assert scaled < 1


def test_every_encoder_is_tried() -> None:
    tried = {str(fields["kind"]) for fields in ENCODERS.values()} | {"external"}
    of_tables = {kind for kind in Encoder.kinds() if not Encoder.find(kind).reads_images}
    assert of_tables <= tried | {"elsewhere"}
