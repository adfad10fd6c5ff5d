"""Weights to ONNX (opset 17), checked against PyTorch at several sizes. Normalisation stays outside the graph."""

import argparse
import os
import warnings

import numpy as np
import onnx
import onnxruntime as ort
import torch
from nets import CenterDetector, CountNet, DetectorExport, HeatmapNet, SmallPhotoNet, SmallResNet, UNet

BATCHES = (1, 3, 2)
FREE = {0: "N", 2: "H", 3: "W"}
BATCH = {0: "N"}
MODELS = {
    "clothing": (SmallPhotoNet, "input", {"input": FREE, "logits": BATCH}, [(128, 128), (160, 96)]),
    "cifar10": (SmallResNet, "input", {"input": BATCH, "logits": BATCH}, [(32, 32), (32, 32)]),
    "nuclei": (UNet, "image", {"image": FREE, "logits": FREE}, [(256, 256), (128, 320), (512, 256)]),
    "bloodcells": (
        CenterDetector,
        "image",
        {"image": FREE, "boxes": BATCH, "scores": BATCH, "labels": BATCH},
        [(256, 320), (192, 256), (480, 640)],
    ),
    "mouse": (
        HeatmapNet,
        "image",
        {"image": FREE, "heatmaps": {0: "N", 2: "h", 3: "w"}},
        [(240, 320), (256, 192)],
    ),
    "nuclei-count": (CountNet, "image", {"image": BATCH, "log_count": BATCH}, [(256, 256)]),
}
"""Name: network, name of its input, free axes of the input and the outputs in order, sizes (height, width) to check."""
DECODERS = {"bloodcells": DetectorExport}
"""What the file does with a network's output, where it does anything."""


def load(network, path):
    """The network with the averaged weights of a training script."""
    net = network()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state"])
    return net.eval()


def export(model, path, inp, axes, sizes):
    """Writes the file, then prints how far ONNX Runtime is from PyTorch on random input."""
    torch.onnx.export(
        model,
        (torch.rand(2, 3, *sizes[0]),),
        path,
        input_names=[inp],
        output_names=[name for name in axes if name != inp],
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )
    onnx.checker.check_model(path)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for n, (h, w) in zip(BATCHES, sizes, strict=False):
        x = torch.rand(n, 3, h, w)
        with torch.no_grad():
            expected = model(x)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for found, wanted in zip(session.run(None, {inp: x.numpy()}), expected, strict=True):
            off = float(np.abs(found.astype("f8") - wanted.numpy().astype("f8")).max())
            print(path, (n, h, w), found.shape, "max |onnx - torch|", off)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", help="folder with <model>.pt; a model without weights there is skipped")
    parser.add_argument("out", help="folder of models: <out>/<model>/1/model.onnx is written")
    args = parser.parse_args()

    warnings.filterwarnings("ignore")
    with torch.no_grad():
        for name, (network, inp, axes, sizes) in MODELS.items():
            weights = f"{args.weights}/{name}.pt"
            if not os.path.exists(weights):
                continue
            os.makedirs(f"{args.out}/{name}/1", exist_ok=True)
            model = load(network, weights)
            if name in DECODERS:
                model = DECODERS[name](model).eval()
            export(model, f"{args.out}/{name}/1/model.onnx", inp, axes, sizes)


if __name__ == "__main__":
    main()
