"""Hugging Face's models, as Optimum exports them: the file, config.json and preprocessor_config.json in a folder.

Processors are those that compute with Pillow; the others differ from them by about 1 of 255.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image

from benchmarks.export_kinds.kinds import Boxes, Export, Mask, Pixels, Scores, Vector
from benchmarks.export_kinds.torch_export import IMAGE_AXES, LABELS, Images, enliven, export

NAMES = {"id2label": dict(enumerate(LABELS)), "label2id": {label: index for index, label in enumerate(LABELS)}}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 96}


def processor(module: str, name: str, **changes: Any) -> Any:
    found = import_module(f"transformers.models.{module}.image_processing_pil_{module}")
    return getattr(found, f"{name}ImageProcessorPil")(**changes)


def saved(folder: Path, model: Any, prepare: Any, outputs: list[str], example: Any, **axes: Any) -> Path:
    """Write the file and what lies beside it."""
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    prepare.save_pretrained(folder)
    inputs = ["pixel_values", *axes]
    return export(model, example, folder / "model.onnx", (inputs, outputs), {"pixel_values": IMAGE_AXES, **axes})


def run(model: Any, prepare: Any) -> Callable[[Pixels], tuple[Any, tuple[int, int]]]:
    """The model's outputs for an image, and the image's height and width."""

    def outputs(image: Pixels) -> tuple[Any, tuple[int, int]]:
        inputs = prepare(images=Image.fromarray(image), return_tensors="pt")
        with torch.no_grad():
            return model(**inputs), (image.shape[0], image.shape[1])

    return outputs


def classifier(folder: Path, model: Any, prepare: Any, side: int) -> Export:
    enliven(model)
    call = run(model, prepare)

    def expected(image: Pixels) -> Scores:
        scores = call(image)[0].logits[0].softmax(-1)
        return Scores(dict(zip(LABELS, map(float, scores), strict=True)))

    return Export(saved(folder, model, prepare, ["logits"], (torch.rand(2, 3, side, side),)), expected)


def vit(folder: Path) -> Export:
    model = hf.ViTForImageClassification(hf.ViTConfig(image_size=64, patch_size=16, **HEADS, **NAMES))
    return classifier(folder, model, processor("vit", "ViT", size={"height": 64, "width": 64}), 64)


def convnext(folder: Path) -> Export:
    config = hf.ConvNextConfig(hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1], **NAMES)
    model = hf.ConvNextForImageClassification(config)
    return classifier(folder, model, processor("convnext", "ConvNext", size={"shortest_edge": 96}), 96)


def segformer(folder: Path) -> Export:
    config = hf.SegformerConfig(hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1], decoder_hidden_size=32, **NAMES)
    model = enliven(hf.SegformerForSemanticSegmentation(config))
    prepare = processor("segformer", "Segformer", size={"height": 256, "width": 256})
    call = run(model, prepare)

    def expected(image: Pixels) -> Mask:
        outputs, size = call(image)
        found = prepare.post_process_semantic_segmentation(outputs, target_sizes=[size])[0]
        return Mask(np.asarray(found), LABELS)

    return Export(saved(folder, model, prepare, ["logits"], (torch.rand(2, 3, 256, 256),)), expected)


def mask2former(folder: Path) -> Export:
    backbone = hf.SwinConfig(
        image_size=64,
        embed_dim=16,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 4],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    sizes = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32}
    layers = {"encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 4, "dim_feedforward": 32}
    config = hf.Mask2FormerConfig(backbone_config=backbone, num_queries=12, **sizes, **layers, **NAMES)
    model = enliven(hf.Mask2FormerForUniversalSegmentation(config))
    prepare = processor("mask2former", "Mask2Former", size={"height": 384, "width": 384})
    call = run(model, prepare)

    def expected(image: Pixels) -> Mask:
        outputs, size = call(image)
        found = prepare.post_process_semantic_segmentation(outputs, target_sizes=[size])[0]
        return Mask(np.asarray(found), LABELS, 0.02)  # it enlarges masks before their sigmoid, the server after it

    model.config.architectures = ["Mask2FormerForUniversalSegmentation"]
    model.config.save_pretrained(folder)
    prepare.save_pretrained(folder)
    names = (["pixel_values"], ["class_queries_logits", "masks_queries_logits"])
    file = export(model, (torch.rand(1, 3, 384, 384),), folder / "model.onnx", names, {"pixel_values": {0: "batch"}})
    return Export(file, expected)


def detector(prepare: Any, model: Any, threshold: float) -> Callable[[Pixels], Boxes]:
    call = run(model, prepare)

    def expected(image: Pixels) -> Boxes:
        outputs, size = call(image)
        found = prepare.post_process_object_detection(outputs, threshold=threshold, target_sizes=[size])[0]
        names = [LABELS[int(index)] for index in found["labels"]]
        boxes, scores = (found[key].double().numpy() for key in ("boxes", "scores"))
        return Boxes(boxes, scores, names, threshold).within(size[1], size[0])

    return expected


def detr(folder: Path) -> Export:
    backbone = hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic", out_features=["stage4"]
    )
    layers = {f"{part}_{key}": value for part in ("encoder", "decoder") for key, value in LAYERS.items()}
    config = hf.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=32,
        num_queries=12,
        **layers,
        **NAMES,
    )
    model, prepare = enliven(hf.DetrForObjectDetection(config)), processor("detr", "Detr")
    mask = {0: "batch_size", 1: "height", 2: "width"}
    example = (torch.rand(2, 3, 128, 192), torch.ones(2, 128, 192, dtype=torch.int64))
    file = saved(folder, model, prepare, ["logits", "pred_boxes"], example, pixel_mask=mask)
    return Export(file, detector(prepare, model, 0.05))


LAYERS = {"layers": 1, "ffn_dim": 32, "attention_heads": 4}


def yolos(folder: Path) -> Export:
    config = hf.YolosConfig(image_size=[128, 192], patch_size=16, num_detection_tokens=12, **HEADS, **NAMES)
    model = enliven(hf.YolosForObjectDetection(config))
    prepare = processor("yolos", "Yolos", size={"shortest_edge": 256, "longest_edge": 400})
    file = saved(folder, model, prepare, ["logits", "pred_boxes"], (torch.rand(2, 3, 256, 336),))
    return Export(file, detector(prepare, model, 0.05))


def rt_detr(folder: Path) -> Export:
    backbone = import_module("transformers.models.rt_detr.configuration_rt_detr_resnet").RTDetrResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    widths = {"encoder_hidden_dim": 32, "encoder_ffn_dim": 32, "d_model": 32, "decoder_ffn_dim": 32}
    config = hf.RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[24, 32, 48],
        decoder_in_channels=[32, 32, 32],
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        decoder_layers=1,
        num_queries=30,
        **widths,
        **NAMES,
    )
    model = enliven(hf.RTDetrForObjectDetection(config), Images((320, 320)))
    prepare = processor("rt_detr", "RTDetr", size={"height": 320, "width": 320})
    file = saved(folder, model, prepare, ["logits", "pred_boxes"], (torch.rand(2, 3, 320, 320),))
    return Export(file, detector(prepare, model, 0.05))


def dinov2(folder: Path) -> Export:
    model = enliven(hf.Dinov2Model(hf.Dinov2Config(image_size=56, patch_size=14, **HEADS)))
    prepare = processor("bit", "Bit", size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56})
    call = run(model, prepare)
    file = saved(folder, model, prepare, ["last_hidden_state", "pooler_output"], (torch.rand(2, 3, 56, 56),))
    answers = {"task": "embedding", "output.name": "pooler_output"}
    return Export(file, lambda image: Vector(call(image)[0].pooler_output[0].double().numpy()), answers)


def clip(folder: Path) -> Export:
    config = hf.CLIPVisionConfig(image_size=64, patch_size=16, projection_dim=32, **HEADS)
    model = enliven(hf.CLIPVisionModelWithProjection(config))
    prepare = processor("clip", "CLIP", size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    call = run(model, prepare)
    file = saved(folder, model, prepare, ["image_embeds", "last_hidden_state"], (torch.rand(2, 3, 64, 64),))
    answers = {"task": "embedding", "output.name": "image_embeds"}
    return Export(file, lambda image: Vector(call(image)[0].image_embeds[0].double().numpy()), answers)
