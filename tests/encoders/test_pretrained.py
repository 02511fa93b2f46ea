"""Networks of transformers as stem and stages: the parts give what the network gives, and a run needs no other file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from polytask import PolytaskError, Recipe, fit, load
from polytask.batch import Features, map_space
from polytask.columns import InputCodec
from polytask.encoder import TrunkPlan
from polytask.encoders import _transformers
from polytask.encoders._backbone import Prepared
from polytask.encoders._transformers import LAYOUTS
from polytask.encoders.pretrained import Pretrained
from polytask.export.agreement import check_agreement
from polytask.export.exporting import describe, write_networks
from polytask.export.serving import ExportedModel
from polytask.images import ImageFeature
from polytask.sources.frame import Frame
from tests.cli.command import done, mistake
from tests.encoders.models import HALVES, TINY, network, saved
from tests.test_layout import imported_by

TASKS = [{"kind": "binary", "name": "bright"}, {"kind": "regression", "name": "level"}]
TRAINER = {"epochs": 2, "batch_size": 16, "device": "cpu"}
N = 40


def codec_of(height: int, width: int, grey: bool = False) -> tuple[InputCodec, Tensor]:
    """How images are read, and some of them, uint8."""
    shape = (3, height, width) if grey else (3, height, width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    table = pa.table({"photo": pa.FixedShapeTensorArray.from_numpy_ndarray(pixels)})
    codec = InputCodec.fit(table, ["photo"])
    return codec, codec.encode(table)["image_photo"]


def features_of(encoder: Pretrained, codec: InputCodec, pixels: Tensor) -> list[Tensor]:
    """What stem and stages give, in evaluation mode, in float64."""
    plan = TrunkPlan(encoder, [codec])
    parts = [part.double() for part in (plan.stem(), *(plan.stage(i) for i in range(plan.n_stages)))]
    outputs: list[Features] = []
    with torch.no_grad():
        for part in parts:
            outputs.append(part.eval()([{"image_photo": pixels}] if not outputs else outputs[-1]))
    for features, spec in zip(outputs, plan.specs, strict=True):
        shape = (spec.width, *spec.space) if spec.kind == "map" else (*spec.space, spec.width)
        assert tuple(features.tensor.shape[1:]) == shape
    return [features.tensor for features in outputs]


def normalized(pixels: Tensor) -> Tensor:
    mean, deviation = (torch.tensor(HALVES[name]).double().view(3, 1, 1) for name in ("image_mean", "image_std"))
    return (pixels / 255 - mean) / deviation


def in_order(features: Tensor, like: Tensor, n_patches: int = 16) -> Tensor:
    """Maps as sequences where transformers has such, and the class token and others first."""
    if features.ndim > like.ndim:
        return features.flatten(2).mT
    return features.roll(like.shape[1] - n_patches, 1) if like.ndim == 3 else features


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_last_stage_gives_what_the_network_gives(kind: str, tmp_path: Path) -> None:
    codec, pixels = codec_of(32, 32)
    found = features_of(Pretrained(model=saved(kind, tmp_path, HALVES)), codec, pixels)
    with torch.no_grad():
        expected = network(kind).double()(pixel_values=normalized(pixels)).last_hidden_state
    torch.testing.assert_close(in_order(found[-1], expected), expected, rtol=1e-6, atol=1e-6)
    assert len(found) > 2


@pytest.mark.parametrize("kind", ["resnet", "convnext", "vit", "swin"])
def test_every_stage_gives_a_hidden_state_of_the_network(kind: str, tmp_path: Path) -> None:
    codec, pixels = codec_of(32, 32)
    found = features_of(Pretrained(model=saved(kind, tmp_path, HALVES), parts=3), codec, pixels)
    with torch.no_grad():
        whole = network(kind).double()(pixel_values=normalized(pixels), output_hidden_states=True)
    states = [*whole.hidden_states[:-1], whole.last_hidden_state]
    assert len(states) == len(found)
    for mine, theirs in zip(found, states, strict=True):
        torch.testing.assert_close(in_order(mine, theirs), theirs, rtol=1e-6, atol=1e-6)


def test_layers_that_are_alike_are_put_into_as_many_stages_as_asked_for(tmp_path: Path) -> None:
    codec, pixels = codec_of(32, 32)
    model = saved("vit", tmp_path)
    found = [features_of(Pretrained(model=model, parts=n), codec, pixels) for n in (1, 2, 9)]
    assert [len(each) for each in found] == [2, 3, 4]  # it has three layers
    assert torch.equal(found[0][-1], found[1][-1])
    assert torch.equal(found[1][1], found[2][2])


def test_images_of_another_size_are_read_where_the_network_can(tmp_path: Path) -> None:
    model = saved("vit", tmp_path, HALVES)
    for height, width in ((48, 48), (16, 40)):
        codec, pixels = codec_of(height, width)
        found = features_of(Pretrained(model=model), codec, pixels)[-1]
        with torch.no_grad():
            expected = network("vit").double()(pixel_values=normalized(pixels), interpolate_pos_encoding=True).last_hidden_state
        n_patches = height * width // 64
        torch.testing.assert_close(in_order(found, expected, n_patches), expected, rtol=1e-6, atol=1e-6)
        assert TrunkPlan(Pretrained(model=model), [codec]).specs[0].grid == (height // 8, width // 8)
    told = r"cannot read images of 20 x 32\. Found: no whole number of patches of 8 x 8\. Set images.size=32, the model's own\."
    with pytest.raises(PolytaskError, match=told):
        TrunkPlan(Pretrained(model=model), [codec_of(20, 32)[0]])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            HALVES,
            [[(p / 255 - m) / d for p in (0, 255)] for m, d in zip(HALVES["image_mean"], HALVES["image_std"], strict=True)],
        ),
        ({"do_normalize": False}, [[0, 1]] * 3),
        ({"do_normalize": False, "do_rescale": False}, [[0, 255]] * 3),
        ({"do_normalize": False, "rescale_offset": True, "rescale_factor": 1 / 127.5}, [[-1, 1]] * 3),
        (None, [[-2, 3]] * 3),
        ({"do_normalize": True}, [[-2, 3]] * 3),
    ],
)
def test_pixels_are_scaled_as_the_model_says_else_by_the_training_images(
    settings: dict[str, Any] | None, expected: list[list[float]]
) -> None:
    image = ImageFeature(column="photo", channels=1, height=1, width=2, mean=(102.0,), deviation=(51.0,))
    made = Prepared(image, 3, settings)(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
    torch.testing.assert_close(made, torch.tensor(expected).float()[None, :, None], rtol=1e-6, atol=1e-6)


def test_blue_comes_first_where_the_model_says_so() -> None:
    image = ImageFeature(column="photo", channels=3, height=1, width=1, mean=(0.0,) * 3, deviation=(1.0,) * 3)
    turned = Prepared(image, 3, {"do_flip_channel_order": True, "do_normalize": False, "do_rescale": False})
    assert turned(torch.tensor([1, 2, 3], dtype=torch.uint8).view(1, 3, 1, 1)).flatten().tolist() == [3, 2, 1]


def rows(size: int = 32) -> dict[str, Any]:
    """Images of some brightness, which one task asks for; the other asks for that and a number beside it."""
    draw = np.random.default_rng(0)
    bright = draw.integers(0, 2, N)
    images = (draw.integers(0, 100, (N, size, size)) + 120 * bright[:, None, None]).astype(np.uint8)
    beside = draw.normal(size=N)
    return {"scan": images, "beside": beside, "bright": np.where(bright, "yes", "no"), "level": bright + beside}


def recipe(model: str, **fields: Any) -> Recipe:
    own = {"kind": "pretrained", "model": model, **fields.pop("encoder", {})}
    return Recipe(**{"sources": [Frame(rows())], "tasks": TASKS, "trainer": TRAINER, "encoder": own, **fields})


@pytest.mark.parametrize("kind", ["convnext", "vit"])
def test_a_run_needs_neither_the_folder_nor_the_hub(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved(kind, tmp_path / "model", {**HALVES, "size": 32})
    run = fit(recipe(model, trainer={**TRAINER, "best": "task", "epochs": 3}), tmp_path / "run")
    new = {name: rows()[name][:5] for name in ("scan", "beside")}
    expected = run.predict(new)
    shutil.rmtree(model)
    monkeypatch.setattr(_transformers, "_fetched", lambda _: pytest.fail("the hub was asked"))
    again = load(tmp_path / "run")
    for answers in (again.predict(new), again.keep("level").predict(new)):
        assert all((answers[task] == expected[task]).all() for task in answers)
    manifest = json.loads((tmp_path / "run" / "model" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["encoder"]["config"]["model_type"] == kind
    assert manifest["encoder"]["pixels"] == {**HALVES, "size": 32}
    assert manifest["encoder"]["model"] == str(tmp_path / "model")
    assert load(tmp_path / "run").recipe.encoder.config is None
    with pytest.raises(PolytaskError, match="no such folder"):
        fit(recipe(model))


def test_what_stands_beside_an_image_hardly_changes_the_network_at_first(tmp_path: Path) -> None:
    pixels = rows()["scan"]
    beside = {"age": np.linspace(-1, 1, N), "kind": ["a", "b"] * (N // 2)}
    images = {"scan": pa.FixedShapeTensorArray.from_numpy_ndarray(pixels)}
    model = saved("convnext", tmp_path, HALVES)
    outputs = []
    for table in (pa.table(images), pa.table(images | beside), pa.table(images | {"twin": images["scan"]})):
        codec = InputCodec.fit(table, table.column_names)
        stem = TrunkPlan(Pretrained(model=model), [codec]).stem().eval()
        outputs.append(stem([codec.encode(table)]).tensor)
    change = (outputs[1] - outputs[0]).abs().mean() / outputs[0].abs().mean()
    assert 0 < change < 0.05
    torch.testing.assert_close(outputs[2], outputs[0])


def test_the_model_decides_the_size_of_images_where_nobody_does(tmp_path: Path) -> None:
    for index, (preprocessor, side) in enumerate(
        [
            (None, 32),
            ({"size": 24}, 24),
            ({"size": {"height": 16, "width": 16}}, 16),
            ({"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 48}}, 48),
            ({"size": {"shortest_edge": 40}}, 40),
        ]
    ):
        asked = Pretrained(model=saved("vit", tmp_path / str(index), preprocessor))
        assert asked.image_size == (side, side)
    run = fit(recipe(saved("vit", tmp_path / "vit"), sources=[Frame(rows(10))], trainer={**TRAINER, "epochs": 1}))
    assert "40 images of 'scan' of other sizes brought to 32 x 32 pixels" in " ".join(run.record["notes"])
    assert Pretrained(model=saved("resnet", tmp_path / "none")).image_size is None


BAD: dict[str, tuple[Any, str]] = {
    "no folder": (lambda path: shutil.rmtree(path), "no such folder. Give the folder that save_pretrained"),
    "no config": (lambda path: (path / "config.json").unlink(), "the folder has no config.json. Found: model.safetensors."),
    "damaged config": (lambda path: (path / "config.json").write_text("{"), "config.json is damaged. Found: Expecting"),
    "no model of images": (
        lambda path: (path / "config.json").write_text('{"model_type": "bert"}'),
        "an architecture of which no stages are known here. Found: model_type 'bert'. Did you mean 'beit'? There is: beit, bit",
    ),
    "settings that make no network": (
        lambda path: changed(path, hidden_act="none"),
        "transformers cannot build the network of these settings",
    ),
    "pickles alone": (
        lambda path: (path / "model.safetensors").rename(path / "pytorch_model.bin"),
        "no weights as safetensors; pickles may run code, and are not read. Found: pytorch_model.bin. Where you trust",
    ),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), "no weights as safetensors"),
    "damaged weights": (
        lambda path: (path / "model.safetensors").write_bytes(b"12345678" * 3),
        "the weights cannot be loaded. Found: ",
    ),
    "weights of other sizes": (lambda path: changed(path, hidden_size=32), "the weights cannot be loaded. Found: "),
    "weights that lack layers": (
        lambda path: changed(path, num_hidden_layers=5),
        "the weights are not of the network that config.json says. Found: 32 are not there: layers.3.",
    ),
}


def changed(path: Path, **values: Any) -> None:
    fields = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps({**fields, **values}), encoding="utf-8")


@pytest.mark.parametrize("what", BAD)
def test_a_folder_that_cannot_be_used_is_told(what: str, tmp_path: Path) -> None:
    model = saved("vit", tmp_path / "model")
    spoil, told = BAD[what]
    spoil(tmp_path / "model")
    with pytest.raises(PolytaskError) as caught:
        fit(recipe(model))
    assert told in str(caught.value)
    assert "encoder pretrained" in caught.value.where


def test_a_model_that_the_hub_does_not_give_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    told = r"encoder pretrained, model 'someone/small-vit': there is no such folder, and the hub of Hugging Face does not give"
    with pytest.raises(PolytaskError, match=told):
        fit(recipe("someone/small-vit"))


def test_only_settings_and_safetensors_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    saved("resnet", tmp_path)
    asked: dict[str, Any] = {}

    def fetched(model: str, **options: Any) -> str:
        asked[model] = options["allow_patterns"]
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    assert Pretrained(model="someone/small-resnet").settled().config["model_type"] == "resnet"
    assert asked == {
        "someone/small-resnet": [
            "config.json",
            "preprocessor_config.json",
            "*.safetensors",
            "*.safetensors.index.json",
        ]
    }


def test_code_that_a_folder_names_is_never_run(tmp_path: Path) -> None:
    model = saved("vit", tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('it was run')\n", encoding="utf-8")
    changed(tmp_path, auto_map={"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}, _attn_implementation="someone/kernels")
    codec, pixels = codec_of(32, 32)
    assert len(features_of(Pretrained(model=model), codec, pixels)) == 4


def test_without_transformers_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        PolytaskError, match=r'needs the package transformers\. Install it: pip install "polytask\[pretrained\]"'
    ):
        Pretrained(model="x", config={"model_type": "vit", **TINY["vit"]}).stem(codec_of(32, 32)[0])


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_patches_are_the_map_that_tasks_of_pixels_are_learned_from(kind: str) -> None:
    task = {"kind": "reconstruction", "name": "again", "column": "scan"}
    encoder = {"kind": "pretrained", "model": "x", "config": {"model_type": kind, **TINY[kind]}}
    source = Frame({name: rows()[name] for name in ("scan", "beside")})
    run = fit(Recipe(sources=[source], tasks=[task], trainer={**TRAINER, "epochs": 1}, encoder=encoder))
    assert run.scores()["again"].scores["rmse"].value > 0
    specs = [part.spec for part in run.recipe.encoder.stages(run.recipe.encoder.stem(run.bundle.manifest.inputs[0].codec).spec)]
    assert all(map_space(spec) for spec in specs)


def test_networks_with_heads_or_texts_give_what_sees_images(tmp_path: Path) -> None:
    """As on the hub, where most files are of a network with a head, or of images and texts."""
    from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTForImageClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    codec, pixels = codec_of(32, 32)
    torch.manual_seed(0)
    texts = {**TINY["vit"], "vocab_size": 9, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    clip = CLIPModel(CLIPConfig(text_config=texts, vision_config=TINY["vit"], projection_dim=4)).eval()
    vit = ViTForImageClassification(ViTConfig(**TINY["vit"], num_labels=3)).eval()
    for whole, seeing in ((clip, clip.vision_model), (vit, vit.vit)):
        folder = tmp_path / type(whole).__name__
        whole.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(HALVES), encoding="utf-8")
        found = features_of(Pretrained(model=str(folder)), codec, pixels)[-1]
        with torch.no_grad():
            expected = seeing.double()(pixel_values=normalized(pixels)).last_hidden_state
        torch.testing.assert_close(in_order(found, expected), expected, rtol=1e-6, atol=1e-6)


def test_a_network_of_patches_of_another_size_is_exported(tmp_path: Path) -> None:
    encoder = {"kind": "pretrained", "model": "x", "config": {"model_type": "vit", **TINY["vit"], "num_hidden_layers": 1}}
    trainer = {**TRAINER, "epochs": 1, "best": "mean"}
    source = Frame({name: rows()[name] for name in ("scan", "bright")})
    run = fit(Recipe(sources=[source], tasks=TASKS[:1], encoder=encoder, images={"size": (16, 24)}, trainer=trainer))
    write_networks(run.bundle, describe(run.bundle, [], "onnx", ["bright"]), tmp_path)
    assert set(check_agreement(ExportedModel(tmp_path, threads=1), run.bundle, []).differences) == {"bright"}


def test_color_is_not_read_by_a_network_of_grey(tmp_path: Path) -> None:
    encoder = Pretrained(model="x", config={"model_type": "resnet", **TINY["resnet"], "num_channels": 1})
    with pytest.raises(PolytaskError, match=r"cannot read the image 'photo'\. Found: 3 channels, where the model reads 1"):
        encoder.stem(codec_of(32, 32)[0])
    assert encoder.stem(codec_of(32, 32, grey=True)[0]).spec.width == 8


def test_transformers_is_not_loaded_to_list_kinds() -> None:
    assert "transformers" not in imported_by("-m", "polytask", "list", "encoders")


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    saved("convnext", tmp_path / "net", HALVES)
    lines = ["photo,bright"]
    for i, image in enumerate(rows()["scan"]):
        Image.fromarray(image).save(f"{i}.png")
        lines.append(f"{i}.png,{rows()['bright'][i]}")
    Path("labels.csv").write_text("\n".join(lines), encoding="utf-8")
    words = ("fit", "labels.csv", "--image", "photo", "--task", "bright", "--epochs", "1", "--encoder", "pretrained")
    done(*words, "--set", "encoder.model=net", "--out", "run")
    assert load("run").recipe.encoder.model == str(tmp_path / "net")
    shutil.rmtree("net")
    assert len(done("predict", "run", "labels.csv").splitlines()) == N + 1
    done("fit", "labels.csv", "--image", "photo", "--warm-start", "run", "--epochs", "1", "--out", "again")
    assert load("again").recipe.encoder.config is None
    assert mistake(*words) == "encoder: Pretrained needs 'model'. Give 'model'."
