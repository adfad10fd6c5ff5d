"""Points: heat maps and coordinates."""

from typing import Any

from tests.contracts.contract import Contract, Entry
from tests.contracts.expected import Points
from tests.contracts.graphs import IMAGENET, Input, export
from tests.contracts.pictures import DOTS, MIDDLES
from tests.support.head_models import Nodes

FIXED = (1, 3, 64, 96)
BARE = {"task": "keypoints", "labels": "[a, b, c]", "input.color": "RGB", "input.resize": "exact"}
BARE |= {"input.scale": "255", "input.mean": "[0.485, 0.456, 0.406]", "input.std": "[0.229, 0.224, 0.225]"}


def heat(n: Nodes) -> dict[str, Any]:
    """Probabilities (n, 3, h, w): the image, averaged over squares of four pixels."""
    small = n.op("AveragePool", "image", kernel_shape=[4, 4], strides=[4, 4])
    n.op("Clip", small, 0.0, 1.0, to="heatmaps")
    return {"heatmaps": ["n", 3, 16, 24]}


POINTS: list[Entry] = [
    Contract("HRNet, crops of one person", lambda: export(Input(FIXED, "input", normal=IMAGENET), heat), DOTS,
             Points(MIDDLES), typed=BARE | {"output.kind": "heatmaps", "output.scores": "probabilities"}),
]  # fmt: skip
