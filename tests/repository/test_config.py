"""Errors in `tta.yaml` name the file, the key, what was found and what is allowed."""

import re
from pathlib import Path

import pytest

from tests.support.configs import CLASSIFICATION, DETECTION, SEGMENTATION, changed
from tests.support.onnx_models import classifier, detector, write_model
from tta_server.errors import ConfigError
from tta_server.repository.config import parse_config
from tta_server.repository.loader import load_model


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"task": "clasification"}, "task is 'clasification'; it should be 'classification', 'multilabel', "),
        ({"task": None}, "task is missing"),
        ({"labels": []}, "labels is missing; classification needs one name for each class"),
        ({"labels": ["a", "a", "b"]}, "labels has 'a' more than once (labels[0] and labels[1]); labels must be unique"),
        ({"labels": "red"}, "labels is 'red', and there is no such file beside tta.yaml; it should be a list"),
        ({"symetries": ["hflip"]}, "unknown key symetries; known: task, labels, "),
        ({"input": {"colour": "RGB"}}, "unknown key input.colour; known: size, resize, "),
        ({"output": {"kind": "logit"}}, "output.kind is 'logit'; it should be 'logits' or 'probabilities'"),
        ({"output": {"kind": None}}, "output.kind is missing"),
        ({"input": {"size": None}}, "input.size is missing"),
        ({"input": {"size": "large"}}, "input.size is 'large'; it should be 'free'"),
        ({"input": {"size": [8, 0]}}, "input.size.1 is 0; it should be a whole number over 0"),
        ({"input": {"size": [8]}}, "input.size"),
        ({"input": {"color": "rgb"}}, "input.color is 'rgb'; it should be 'RGB', 'BGR' or 'grey'"),
        ({"input": {"layout": "CHW"}}, "input.layout is 'CHW'; it should be 'NCHW' or 'NHWC'"),
        ({"input": {"interpolation": "box"}}, "input.interpolation is 'box'; it should be 'bilinear', "),
        (
            {"input": {"interpolation": "area"}},
            "input: interpolation area is not available with resize_like pillow, which allows bilinear, bicubic, "
            "lanczos, nearest; change one of them",
        ),
        (
            {"input": {"interpolation": "lanczos", "resize_like": "torch"}},
            "input: interpolation lanczos is not available with resize_like torch, which allows bilinear, bicubic, ",
        ),
        ({"input": {"resize_like": "cv2"}}, "input.resize_like is 'cv2'; it should be 'pillow', 'opencv' or 'torch'"),
        ({"input": {"scale": 0}}, "input.scale is 0; it should be a number over 0"),
        ({"input": {"mean": [0.5, 0.5]}}, "input: mean has 2 numbers; color RGB allows 1 or 3"),
        ({"input": {"std": [0.5, 0.0, 0.5]}}, "input.std.1 is 0.0; it should be a number over 0"),
        ({"input": {"resize": "fit"}}, "input.resize is 'fit'; it should be 'none', 'exact', 'cover' or 'letterbox'"),
        ({"input": {"resize": 7}}, "input: resize 7 is smaller than the centre crop; it should be at least 8"),
        ({"input": {"levels": [5, 5]}}, "input: levels is [5.0, 5.0]; it should be [low, high] with low under high"),
        ({"input": {"levels": "full"}}, "input.levels is 'full'; it should be 'auto'"),
        ({"input": {"levels": [0]}}, "input.levels"),
        (
            {"input": {"background": [0, 0, 256]}},
            "input.background.2 is 256; it should be a whole number of at most 255",
        ),
        ({"input": {"background": "white"}}, "input.background is 'white'; it should be a list"),
        ({"input": {"resize": "none"}}, "input: resize none needs size: free"),
        ({"input": {"size": "free", "resize": "letterbox"}}, "input: resize letterbox needs a fixed size"),
        ({"input": {"letterbox_fill": 300}}, "input.letterbox_fill is 300; it should be a whole number of at most 255"),
        ({"input": {"crop_from": [9, 9]}}, "input: crop_from needs a fixed size and resize: exact or cover; remove it"),
        (
            {"input": {"resize": "exact", "crop_from": [9, 7]}},
            "input: crop_from is [9, 7]; it should be at least the size of the centre crop, [8, 8]",
        ),
        ({"input": {"size": "free", "resize": "cover"}}, "input: resize cover needs a fixed size"),
        ({"input": {"letterbox_fill": "black"}}, "input.letterbox_fill is 'black'; it should be "),
        ({"input": {"letterbox_fill": [1, 2, 256]}}, "input.letterbox_fill.2 is 256; it should be a whole number of"),
        (
            {"input": {"resize": "letterbox", "color": "grey", "letterbox_fill": [1, 2, 3]}},
            "input: letterbox_fill has 3 numbers; color grey allows 1",
        ),
        (
            {"input": {"letterbox_anchor": "left"}},
            "input.letterbox_anchor is 'left'; it should be 'center' or 'top_left'",
        ),
        ({"input": {"letterbox_anchor": "top_left"}}, "input: letterbox_anchor needs resize: letterbox"),
        (
            {"input": {"rounding": "floor"}},
            "input: rounding needs resize: letterbox, or long_side; for a short side use",
        ),
        ({"input": {"rounding": "up"}}, "input.rounding is 'up'; it should be 'round', 'half_up' or 'floor'"),
        ({"input": {"resize": "exact", "size_like": "detectron2"}}, "input: size_like needs resize: a number"),
        ({"input": {"size_like": "keras"}}, "input.size_like is 'keras'; it should be 'torchvision', 'transformers', "),
        ({"input": {"long_side": 64}}, "input: long_side needs size: free; for a fixed size use resize: letterbox"),
        (
            {"input": {"size": "free", "long_side": 64}},
            "input: long_side and resize 10 exclude each other; remove one of them",
        ),
        (
            {"input": {"pad": "zeros"}},
            "input: pad zeros needs multiple, over 1, and another resize than letterbox, whose",
        ),
        ({"input": {"pad": "edge", "multiple": 4}}, "input.pad is 'edge'; it should be 'reflect' or 'zeros'"),
        ({"merge": "mean"}, "merge is 'mean'; allowed for this task: mean_probabilities, "),
        ({"symmetries": ["flip"]}, "symmetries.0 is 'flip'; it should be 'identity', 'hflip', "),
        ({"limits": {"rotate": 90}}, "limits.rotate is 90; it should be a number of at most 45"),
        ({"budget": {"default_ms": 0}}, "budget.default_ms is 0; it should be a number over 0"),
        ({"budget": {"default_ms": 9000}}, "budget: default_ms is 9000; it should be at most max_ms, 5000"),
        ({"budget": {"min_views": 3}}, "budget.min_views is 3, but the policy has 2 views"),
        ({"stop": "maybe"}, "stop: unknown stop 'maybe'; known: all, certain"),
        ({"backend": "tensorrt"}, "backend is 'tensorrt'; it should be 'onnxruntime'"),
        ({"policy": "d5"}, "policy: unknown policy 'd5'; presets: plain, "),
        ({"policy": "d4"}, "policy: view 'vflip' contains vflip, which does not keep this model's labels"),
        ({"policy": ["hflip"]}, "policy: the first view of the policy is 'hflip'; it must be the plain view"),
        ({"policy": ["identity", {"zoom": 0}]}, "policy: view 2: zoom takes a number from 1 to 10, not 0"),
        ({"policy": ["identity", {"rotate": 40}]}, "policy: view 'rotate 40' has a rotation in degrees of 40"),
        (
            {"policy": ["identity", {"shift": [4, 0]}]},
            "policy: view 'shift [4,0]' shifts by 4 pixels; it must shift by less than half of this model's input",
        ),
        ({"policy": ["identity", {"scale": 0.5}]}, "policy: view 'scale 0.5' has a scale of 0.5; this model's input"),
        (
            {"policy": ["identity", {"hflip": True, "weight": [1, 2]}]},
            "policy: view 'hflip' has 2 weights; give one number, or one for each of the 3 labels",
        ),
        ({"policy": "missing.yaml"}, "policy: no file 'missing.yaml' beside tta.yaml"),
        ({"policy": "../tiny/tta.yaml"}, "policy: no file '../tiny/tta.yaml' beside tta.yaml"),
    ],
)
def test_an_error_names_the_key_what_was_found_and_what_is_allowed(refused, changes, sentence):
    found = refused(changed(CLASSIFICATION, **changes))
    assert found.startswith(sentence)


def test_an_error_names_all_mistakes(refused):
    found = refused(changed(CLASSIFICATION, labels="red", output={"kind": "y"}))
    assert "labels is 'red'" in found
    assert "output.kind is 'y'" in found


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (
            {"resize": "cover"},
            "input.resize is cover, so that a centre crop hides the image's border from segmentation",
        ),
        ({"crop_from": [9, 9]}, "input.crop_from is set, so that a centre crop hides the image's border from "),
    ],
)
def test_segmentation_refuses_other_crops(refused, entry, sentence):
    assert sentence in refused(changed(SEGMENTATION, input={"size": [8, 8], "multiple": None, **entry}))


def test_segmentation_refuses_a_centre_crop(refused):
    found = refused(changed(SEGMENTATION, input={"size": [8, 8], "resize": 10, "multiple": None}))
    assert (
        "centre crop hides the image's border from segmentation; allowed: size: free, or resize: exact or letterbox"
        in found
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the file holds null; it should hold keys like 'task' and 'input'"),
        ("- task", "the file holds [\"task\"]; it should hold keys like 'task' and 'input'"),
        ("task: [", "is not valid YAML in line 1, column 8"),
        ("task: classification\ntask: {a: b: c}", "is not valid YAML in line 2, column 12"),
        ("!!python/object/apply:os.getcwd []", "is not valid YAML in line 1, column 1"),
        ("task:\n\tinput: 1", "is not valid YAML in line 2, column 1; indent with spaces, not tabs"),
    ],
)
def test_a_file_that_is_not_a_mapping_is_refused(refused, text, sentence):
    assert refused(text).startswith(sentence)


def test_keys_that_are_not_text_are_refused(refused):
    assert refused({**CLASSIFICATION, 5: "x"}) == "the key 5 is not text"


@pytest.mark.parametrize("text", ["identity", "- {zoom: ", "- {crop: {1: 2, a: 3}}", "", "- identity\n- {zoom: 0}"])
def test_a_mistake_in_a_policy_file_is_a_mistake_in_the_config(tmp_path, text):
    folder = write_model(tmp_path / "tiny", classifier(), changed(CLASSIFICATION, policy="learned.yaml"))
    (folder / "learned.yaml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(str(folder))):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"max_size": 1024}, "input.max_size is 1024, under max_long_side, 1333; detection does not tile"),
        (
            {"max_size": 800, "max_long_side": None},
            r"input.max_size is 800; it limits the long side for detection, .* over the short side's length, 800",
        ),
        ({"resize": None}, "max_long_side needs resize: a number"),
        ({"resize": "none"}, "max_long_side needs resize: a number"),
        ({"max_long_side": 800}, "max_long_side is 800; it should be over the short side's length, 800"),
        ({"size": [64, 64], "resize": 64}, "max_long_side needs size: free"),
        ({"size": [64, 64], "resize": "letterbox"}, "max_long_side needs size: free"),
        ({"max_long_side": 0}, "input.max_long_side is 0"),
        (
            {"resize": None, "max_long_side": None, "long_side": 1280, "max_size": 1024},
            "input.max_size is 1024, under long_side, 1280; detection does not tile",
        ),
    ],
)
def test_an_invalid_limit_of_the_long_side_is_refused(refused, changes, sentence):
    assert re.search(sentence, refused(changed(DETECTION, input=changes), detector()))


@pytest.mark.parametrize("mark", ["# ? ", "? ", "#? "])
def test_lines_that_init_left_open_are_not_taken_for_defaults(mark):
    """`scale` has a default, which may not be the model's."""
    text = f"task: classification\ninput:\n  size: free\n  {mark}scale:  # 255 | 1\n"
    with pytest.raises(ConfigError, match=r"^place: lines are still open: scale; write values into them"):
        parse_config(text, "place", Path())
