"""Weights to ONNX (opset 17), checked against PyTorch at several sizes. Normalisation stays outside the graph."""

import argparse
import os
import warnings

import numpy as np
import onnx
import onnxruntime as ort
import torch
from nets import SmallPhotoNet, SmallResNet, UNet

BATCHES = (1, 3, 2)
FREE = {0: "N", 2: "H", 3: "W"}
MODELS = {
    "clothing": (SmallPhotoNet, "input", {"input": FREE, "logits": {0: "N"}}, [(128, 128), (160, 96)]),
    "cifar10": (SmallResNet, "input", {"input": {0: "N"}, "logits": {0: "N"}}, [(32, 32), (32, 32)]),
    "nuclei": (UNet, "image", {"image": FREE, "logits": FREE}, [(256, 256), (128, 320), (512, 256)]),
}
"""Name: network, name of its input, free axes, and the sizes (height, width) to check."""


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
        output_names=["logits"],
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )
    onnx.checker.check_model(path)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for n, (h, w) in zip(BATCHES, sizes, strict=False):
        x = torch.rand(n, 3, h, w)
        with torch.no_grad():
            expected = model(x).numpy()
        (found,) = session.run(None, {inp: x.numpy()})
        off = float(np.abs(found.astype("f8") - expected.astype("f8")).max())
        print(path, (n, h, w), expected.shape, "max |onnx - torch|", off)


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
            export(load(network, weights), f"{args.out}/{name}/1/model.onnx", inp, axes, sizes)


if __name__ == "__main__":
    main()
