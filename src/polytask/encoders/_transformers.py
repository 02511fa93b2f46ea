"""Image networks of Hugging Face transformers: found, loaded without running code of theirs, and taken apart into parts."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from logging import CRITICAL
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polytask.errors import PolytaskError, did_you_mean, listed, one_line
from polytask.seeding import seeded

CONFIG, PREPROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "*.safetensors"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
# Names of classes and files, code that came along, and the numbers that the weights are stored in.
NOT_OF_THE_NETWORK = frozenset(
    {"_name_or_path", "architectures", "auto_map", "dtype", "id2label", "label2id", "quantization_config", "torch_dtype"}
)


@dataclass(frozen=True)
class Layout:
    """Where the parts of an architecture are, as paths from its model, several with spaces between them.

    Attributes:
        stem: From pixels to the first features.
        layers: The list of layers, each from features to features.
        after: What the features of the last layer go through.
        stages: Whether each of the layers is a stage of the network's paper.
    """

    stem: str
    layers: str
    after: str = ""
    stages: bool = False

    @property
    def paths(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.stem.split(), self.layers, *self.after.split())


_RESNET, _CONVNEXT = Layout("embedder", "encoder.stages", stages=True), Layout("embeddings", "encoder.stages", stages=True)
_VIT, _DINO = Layout("embeddings", "layers", "layernorm"), Layout("embeddings", "encoder.layer", "layernorm")
_SWIN = Layout("embeddings", "encoder.layers", "layernorm", stages=True)
LAYOUTS = {
    "beit": _VIT,
    "bit": Layout("embedder", "encoder.stages", "norm", stages=True),
    "clip_vision_model": Layout("embeddings pre_layrnorm", "encoder.layers"),
    "convnext": _CONVNEXT,
    "convnextv2": _CONVNEXT,
    "data2vec-vision": _DINO,
    "deit": _VIT,
    "dinov2": _DINO,
    "dinov2_with_registers": _DINO,
    "efficientnet": Layout("embeddings", "encoder.blocks", "encoder.top_conv encoder.top_bn encoder.top_activation"),
    "ijepa": _VIT,
    "mobilenet_v1": Layout("conv_stem", "layer"),
    "mobilenet_v2": Layout("conv_stem", "layer", "conv_1x1"),
    "mobilevit": Layout("conv_stem", "encoder.layer", "conv_1x1_exp", stages=True),
    "mobilevitv2": Layout("conv_stem", "encoder.layer", stages=True),
    "regnet": _RESNET,
    "resnet": _RESNET,
    "siglip_vision_model": Layout("embeddings", "encoder.layers", "post_layernorm"),
    "swiftformer": Layout("patch_embed", "encoder.network"),
    "swin": _SWIN,
    "swinv2": _SWIN,
    "textnet": Layout("stem", "encoder.stages", stages=True),
    "vit": _VIT,
    "vit_msn": _VIT,
}


@dataclass(eq=False)  # it is remembered as long as somebody has it
class Backbone:
    """The parts of a network.

    Attributes:
        network: As transformers has it, with its ``config``.
        layout: Where its parts are.
        stem: From pixels ``[B, C, H, W]`` to the first features, one after the other.
        layers: From features to features, one after the other.
        after: What those of the last layer go through.
    """

    network: Any
    layout: Layout
    stem: list[nn.Module]
    layers: list[nn.Module]
    after: list[nn.Module]


def folder_of(model: str) -> Path:
    """The folder that a name stands for: itself, or a copy of what the hub has of that name.

    Of the hub only the two files of settings and safetensors are fetched: neither code nor pickles.

    Raises:
        PolytaskError: There is no such folder, or the hub cannot be reached or has nothing of that name.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if model[:1] in (".", "/", "~") or folder.exists() or model.count("/") > 1 or "\\" in model:
        mend = (
            "Give the folder that save_pretrained of transformers wrote, or a name on the hub, such as facebook/dinov2-small."
        )
        raise PolytaskError("no such folder", where=_where(model), mend=mend)
    return _fetched(model)


@cache
def _fetched(model: str) -> Path:
    require_transformers()
    import huggingface_hub

    try:
        wanted = [CONFIG, PREPROCESSOR, WEIGHTS, f"{WEIGHTS}.index.json"]
        return Path(huggingface_hub.snapshot_download(model, allow_patterns=wanted))
    except Exception as error:  # of a network, a proxy, the hub's own: they have no root in common
        mend = "Is that the name, and is there a network? Else fetch it where there is one, and give the folder."
        what = "there is no such folder, and the hub of Hugging Face does not give a model of that name"
        raise PolytaskError(
            what, where=_where(model), found=f"{type(error).__name__}: {one_line(error)[:200]}", mend=mend
        ) from error


def require_transformers() -> None:
    """Raise a PolytaskError where the package is not installed."""
    try:
        import transformers  # noqa: F401
    except ModuleNotFoundError:
        mend = 'Install it: pip install "polytask[pretrained]".'
        raise PolytaskError("the encoder pretrained needs the package transformers", mend=mend) from None


def settings_of(model: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What a model's folder says of its network, and of the pixels that this reads, if it does.

    Raises:
        PolytaskError: It is not a folder of transformers, or of an architecture that is not taken apart here.
    """
    folder = folder_of(model)
    config, pixels = _read(folder / CONFIG, model), _read(folder / PREPROCESSOR, model)
    if config is None:
        found = listed(sorted(path.name for path in folder.iterdir())) or "an empty folder"
        mend = "Give the folder that save_pretrained of transformers wrote."
        raise PolytaskError(f"the folder has no {CONFIG}", where=_where(model), found=found, mend=mend)
    config = config.get("vision_config") or config
    kind = config.get("model_type")
    if kind not in LAYOUTS:
        what = "an architecture of which no stages are known here"
        mend = f"{did_you_mean(str(kind), list(LAYOUTS))} There is: {listed(LAYOUTS, len(LAYOUTS))}."
        raise PolytaskError(what, where=_where(model), found=f"model_type {kind!r}", mend=mend)
    return {name: value for name, value in config.items() if name not in NOT_OF_THE_NETWORK}, pixels


def fresh(config: Mapping[str, Any]) -> Backbone:
    """The network of these settings, with weights that a seed gives.

    Raises:
        PolytaskError: They are not settings of such a network.
    """
    with _quiet(), seeded(0):
        return _taken_apart(_built(config), config["model_type"])


def loaded(model: str, config: Mapping[str, Any]) -> Backbone:
    """The network of a model's folder, of these settings, with its weights.

    Raises:
        PolytaskError: There are no weights as safetensors, or they are not this network's.
    """
    folder, where = folder_of(model), _where(model)
    if not list(folder.glob(WEIGHTS)):
        pickled = [path.name for kind in PICKLED for path in sorted(folder.glob(kind))]
        mend = "Where you trust the file: load it with transformers, and save_pretrained(folder) writes safetensors."
        raise PolytaskError(
            "no weights as safetensors; pickles may run code, and are not read",
            where=where,
            found=listed(pickled) or "none",
            mend=mend if pickled else "Give the folder that save_pretrained of transformers wrote.",
        )
    with _quiet(), seeded(0):
        empty = _built(config)
        try:
            network, told = type(empty).from_pretrained(
                folder,
                config=empty.config,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                dtype=torch.float32,
                attn_implementation=empty.config._attn_implementation,
            )
        except Exception as error:  # whatever is raised for files that are damaged, or of another network
            raise PolytaskError("the weights cannot be loaded", where=where, found=one_line(error)[:300]) from error
        used = tuple(f"{path}." for path in LAYOUTS[config["model_type"]].paths)
        if lacking := sorted(key for key in told["missing_keys"] if key.startswith(used)):
            found = f"{len(lacking)} are not there: {listed(lacking, 3)}"
            raise PolytaskError(f"the weights are not of the network that {CONFIG} says", where=where, found=found)
        return _taken_apart(network.eval(), config["model_type"])


def _built(config: Mapping[str, Any]) -> Any:
    require_transformers()
    from transformers import CONFIG_MAPPING, AutoModel

    kind = config["model_type"]
    if kind not in LAYOUTS:
        raise PolytaskError("an architecture of which no stages are known here", where="encoder pretrained", found=repr(kind))
    try:
        made = CONFIG_MAPPING[kind].from_dict({k: v for k, v in config.items() if not k.lstrip("_").startswith("attn_impl")})
        # Said outright: settings may name an implementation on the hub, which is code.
        able = getattr(AutoModel._model_mapping[type(made)], "_supports_sdpa", False)
        return AutoModel.from_config(  # type: ignore[no-untyped-call]
            made, trust_remote_code=False, dtype=torch.float32, attn_implementation="sdpa" if able else "eager"
        ).eval()
    except PolytaskError:
        raise  # of a limit on what may be allocated
    except Exception as error:  # whatever transformers raises for settings that do not go together
        what = "transformers cannot build the network of these settings"
        raise PolytaskError(what, where=f"encoder pretrained, {kind}", found=one_line(error)[:300]) from error


def _taken_apart(network: Any, kind: str) -> Backbone:
    layout = LAYOUTS[kind]
    try:
        stem, after = ([network.get_submodule(path) for path in part.split()] for part in (layout.stem, layout.after))
        layers = list(network.get_submodule(layout.layers))
    except AttributeError as error:
        import transformers

        mend = "Install another version of it."
        what = f"transformers {transformers.__version__} has other parts in {kind} than polytask knows"
        raise PolytaskError(what, where="encoder pretrained", found=one_line(error), mend=mend) from None
    if getattr(stem[0], "mask_token", None) is not None:
        stem[0].mask_token = None  # only what learns from masked images reads it
    return Backbone(network, layout, stem, layers, after)


def asked_of(layer: nn.Module, **known: Any) -> dict[str, Any]:
    """Of what is known, what a layer's ``forward`` takes."""
    return {name: known[name] for name in inspect.signature(layer.forward).parameters if name in known}


def first(output: Any) -> Tensor:
    """The tensor that a layer gives, alone or as the first of several things."""
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor


def _read(path: Path, model: str) -> dict[str, Any] | None:
    """A JSON file; None where there is none."""
    if not path.is_file():
        return None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise PolytaskError(f"{path.name} is damaged", where=_where(model), found=one_line(error)) from None
    if not isinstance(fields, dict):
        raise PolytaskError(f"{path.name} is damaged", where=_where(model), found=type(fields).__name__)
    return fields


def _where(model: str) -> str:
    return f"encoder pretrained, model {model!r}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Meanwhile transformers draws no bars and says nothing: what matters is told by us."""
    require_transformers()
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
