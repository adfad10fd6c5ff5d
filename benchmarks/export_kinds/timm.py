"""timm's classifiers, exported by hand, with the config.json that timm saves beside its weights."""

from pathlib import Path

import timm
import torch
from PIL import Image

from benchmarks.export_kinds.kinds import Export, Pixels, Scores
from benchmarks.export_kinds.torch_export import LABELS, Images, enliven, export, spread

IMAGES = Images((224, 224), -2, 2.5)


def classifier(folder: Path) -> Export:
    model = timm.create_model("resnet10t", pretrained=False, num_classes=len(LABELS))
    enliven(model, IMAGES)
    spread(model, [model.fc], IMAGES, 0, 2)
    timm.models.save_for_hf(model, str(folder), model_config={"label_names": LABELS}, safe_serialization=False)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model, use_test_size=True))
    axes = {"input": {0: "batch"}, "output": {0: "batch"}}
    names = (["input"], ["output"])
    file = export(model, (torch.rand(1, 3, 224, 224),), folder / "resnet10t.onnx", names, axes)

    def expected(image: Pixels) -> Scores:
        with torch.no_grad():
            scores = model(transform(Image.fromarray(image))[None])[0].softmax(-1)
        return Scores(dict(zip(LABELS, map(float, scores), strict=True)))

    return Export(file, expected)
