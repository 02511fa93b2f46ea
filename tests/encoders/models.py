"""Small networks of transformers with weights that were drawn, saved as people save theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

_VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "image_size": 32,
    "patch_size": 8,
}
_SWIN = {"embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 2, "image_size": 32, "patch_size": 4}
_PYRAMID = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
TINY: dict[str, dict[str, Any]] = {
    "beit": {**_VIT, "use_relative_position_bias": True},
    "bit": {**_PYRAMID, "num_groups": 2},
    "clip_vision_model": _VIT,
    "convnext": {"hidden_sizes": [8, 12], "depths": [1, 2], "num_stages": 2},
    "convnextv2": {"hidden_sizes": [8, 12], "depths": [1, 2], "num_stages": 2},
    "data2vec-vision": {**_VIT, "use_relative_position_bias": True},
    "deit": _VIT,
    "dinov2": _VIT,
    "dinov2_with_registers": _VIT,
    "efficientnet": {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128},
    "ijepa": _VIT,
    "mobilenet_v1": {"depth_multiplier": 0.1},
    "mobilenet_v2": {"depth_multiplier": 0.1},
    "mobilevit": {
        "hidden_sizes": [8, 8, 12],
        "neck_hidden_sizes": [4, 4, 8, 8, 8, 8, 10],
        "num_attention_heads": 2,
        "output_stride": 16,
    },
    "mobilevitv2": {"width_multiplier": 0.1, "output_stride": 16},
    "regnet": {**_PYRAMID, "groups_width": 4},
    "resnet": {**_PYRAMID, "layer_type": "basic"},
    "siglip_vision_model": _VIT,
    "swiftformer": {"depths": [1, 1, 1, 1], "embed_dims": [8, 8, 12, 12]},
    "swin": _SWIN,
    "swinv2": _SWIN,
    "textnet": {"stem_out_channels": 8, "hidden_sizes": [8, 8, 8, 8, 8]},
    "vit": _VIT,
    "vit_msn": _VIT,
}
HALVES = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "do_normalize": True, "do_rescale": True}


def network(kind: str) -> Any:
    """A network whose normalization and biases are not those that networks begin with."""
    from transformers import CONFIG_MAPPING, AutoModel

    torch.manual_seed(0)
    made = AutoModel.from_config(CONFIG_MAPPING[kind](**TINY[kind]))
    with torch.no_grad():
        for name, value in made.state_dict().items():
            if value.is_floating_point():
                value += 0.1 * torch.rand_like(value) if "running_var" in name else 0.1 * torch.randn_like(value)
    return made.eval()


def saved(kind: str, folder: Path, preprocessor: dict[str, Any] | None = None) -> str:
    """The folder of such a network, with what is said of its pixels."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    network(kind).save_pretrained(folder)
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor), encoding="utf-8")
    return str(folder)
