"""Vectors of images."""

from typing import Any

import numpy as np

from tests.contracts.classifiers import CLIP, CROP, CROPS, PROCESSOR, SQUASH, TIMM, optimum
from tests.contracts.contract import Asked, Contract, Entry
from tests.contracts.expected import Values
from tests.contracts.graphs import HALF, IMAGENET, Input, export
from tests.contracts.pictures import STRIPES, mean_of_stripes
from tests.support.head_models import Nodes

TOKENS = 3
SQUARE = {"size": {"height": 20, "width": 20}}


def vector(share: float) -> Values:
    values = mean_of_stripes(share)
    return Values("vector", tuple(values / np.linalg.norm(values)))


def pooled(name: str) -> Any:
    """The mean colour, (n, 3)."""

    def maker(n: Nodes) -> dict[str, Any]:
        n.op("ReduceMean", "image", axes=[2, 3], keepdims=0, to=name)
        return {name: ["n", 3]}

    return maker


def tokens(n: Nodes) -> dict[str, Any]:
    """(n, 3, 3): the mean colour, then something else."""
    mean = n.axis(n.op("ReduceMean", "image", axes=[2, 3], keepdims=0), 1)
    n.op("Concat", mean, *[n.op("Mul", mean, [5.0, -1.0, 2.0])] * (TOKENS - 1), axis=1, to="last_hidden_state")
    return {"last_hidden_state": ["n", TOKENS, 3]}


def both(name: str) -> Any:
    return lambda n: tokens(n) | pooled(name)(n)


def hugging_face(architecture: str, kind: str, processor: dict[str, Any], normal: Any) -> dict[str, Any]:
    values = {"image_mean": normal[0], "image_std": normal[1]}
    return {
        "config_json": {"architectures": [architecture], "model_type": kind},
        "preprocessor_config_json": PROCESSOR | values | processor,
    }


def embedder(name: str, model: Any, share: float, **given: Any) -> Contract:
    return Contract(name, model, STRIPES, vector(share), **given)


CLIP_FILES = hugging_face("CLIPVisionModelWithProjection", "clip_vision_model",
                          {"image_processor_type": "CLIPImageProcessor", **CROPS}, CLIP)  # fmt: skip
DINO_FILES = hugging_face("Dinov2Model", "dinov2", {"image_processor_type": "BitImageProcessor", **CROPS}, IMAGENET)
SIGLIP_FILES = hugging_face("SiglipVisionModel", "siglip_vision_model",
                            {"image_processor_type": "SiglipImageProcessor", **SQUARE}, HALF)  # fmt: skip

EMBEDDINGS: list[Entry] = [
    embedder("CLIP's projected vector", optimum(CLIP, both("image_embeds")), CROP, files=CLIP_FILES),
    embedder("DINOv2's pooled vector", optimum(IMAGENET, both("pooler_output")), CROP, files=DINO_FILES),
    embedder("DINOv2's first token", optimum(IMAGENET, tokens), CROP, files=DINO_FILES),
    embedder("SigLIP's pooled vector", optimum(HALF, both("pooler_output")), SQUASH, files=SIGLIP_FILES),
    Asked("SigLIP's tokens", optimum(HALF, tokens),
          "output.token: first, a class token as of ViT and CLIP | mean, of all tokens", files=SIGLIP_FILES),
    embedder("timm without classes",
             lambda: export(Input(("n", 3, 16, 16), "input", normal=IMAGENET), pooled("output")), CROP,
             files={"config_json": TIMM | {"num_classes": 0}}),
]  # fmt: skip
