"""preprocessor_config.json of Hugging Face: what each processor does, or that tta.yaml can't state it."""

from typing import Any

import pytest

from tests.support.model_files import model_file, values
from tta_server.onboarding.conclusions import Given, conclude
from tta_server.onboarding.evidence import Document

SIDES = {"height": 224, "width": 224}
CROP = {"do_center_crop": True, "crop_size": SIDES}
COMMON = {"do_resize": True, "do_rescale": True, "rescale_factor": 0.00392156862745098, "do_normalize": True}
COMMON |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1], "resample": 3}
VALUES = {"color": "RGB", "scale": 255, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "interpolation": "bicubic"}
VALUES |= {"resize_like": "pillow"}


def concluded(**changes: Any):
    content = {key: value for key, value in {**COMMON, **changes}.items() if value != "missing"}
    return conclude(model_file(shape=("n", "c", "h", "w")), Given(), [Document("preprocessor_config.json", content)])


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("ViTImageProcessor", {"size": SIDES}, {"size": [224, 224], "resize": "exact"}),
        ("ViTImageProcessorFast", {"size": SIDES}, {"size": [224, 224], "resize": "exact"}),
        ("ViTImageProcessor", {"size": 224}, {"size": [224, 224], "resize": "exact"}),
        ("DeiTImageProcessor", {"size": SIDES, **CROP}, {"size": [224, 224], "resize": "exact"}),
        (
            "DeiTImageProcessor",
            {"size": 256, **CROP},
            {"size": [224, 224], "resize": "exact", "crop_from": [256, 256]},
        ),
        (
            "DetrImageProcessor",
            {"size": {"shortest_edge": 800, "longest_edge": 1333}, "do_pad": True},
            {"size": "free", "resize": 800, "max_long_side": 1333, "size_like": "transformers"},
        ),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 256}, **CROP}, {"size": [224, 224], "resize": 256}),
        ("BitImageProcessor", {"size": 256, **CROP, "crop_size": 224}, {"size": [224, 224], "resize": 256}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}}, {"size": [224, 224], "resize": 256}),
        (
            "ConvNextImageProcessor",
            {"size": {"shortest_edge": 224}, "crop_pct": 0.95},
            {"size": [224, 224], "resize": 235},
        ),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}, {"size": [384, 384], "resize": "exact"}),
        ("LevitImageProcessor", {"size": {"shortest_edge": 224}, **CROP}, {"size": [224, 224], "resize": 256}),
        ("ViTImageProcessor", {"size": SIDES, "do_normalize": False}, {"mean": [0], "std": [1]}),
        ("ViTImageProcessor", {"size": SIDES, "rescale_factor": 1 / 127.5}, {"scale": 127.5}),
        ("ViTImageProcessor", {"size": SIDES, "do_rescale": False}, {"scale": 1}),
        ("ViTImageProcessor", {"size": SIDES, "resample": 2}, {"interpolation": "bilinear"}),
        (
            "MobileViTImageProcessor",
            {"size": {"shortest_edge": 256}, **CROP},
            {"size": [224, 224], "resize": 256, "color": "BGR", "mean": [0], "std": [1]},
        ),
    ],
)
def test_what_a_processor_does(kind: str, changes: dict[str, Any], expected: dict[str, Any]) -> None:
    found = concluded(image_processor_type=kind, **changes)
    assert not found.refusals
    assert values(found, "input.") == {"size": [224, 224], "resize": "exact"} | VALUES | expected


def test_a_feature_extractor_of_old() -> None:
    found = concluded(
        feature_extractor_type="ViTFeatureExtractor", size=224, do_rescale="missing", rescale_factor="missing"
    )
    assert values(found, "input.") == {"size": [224, 224], "resize": "exact"} | VALUES


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        ("EfficientNetImageProcessor", {"size": SIDES}, "the preprocessing of EfficientNetImageProcessor is not known"),
        ("DetrImageProcessor", {"size": {"shortest_edge": 800}}, "the short side becomes 800 without a crop"),
        ("DeiTImageProcessor", {"size": 200, **CROP}, "images become [200, 200], and are then cropped to [224, 224]"),
        ("YolosImageProcessor", {"size": {"shortest_edge": 8, "longest_edge": 9}}, "the preprocessing of YolosImage"),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 8, "longest_edge": 9}, **CROP}, "size is {'shortest_edge'"),
        ("CLIPImageProcessor", {"size": 224, "do_center_crop": False}, "the short side becomes 224 without a crop"),
        ("CLIPImageProcessor", {"size": 200, **CROP}, "the short side becomes 200, under the crop of [224, 224]"),
        ("ViTImageProcessor", {"size": {"longest_edge": 224}}, "size is {'longest_edge': 224}"),
        ("ViTImageProcessor", {"size": SIDES, "resample": 4}, "resample 4 can't be stated in tta.yaml"),
        ("ViTImageProcessor", {"size": SIDES, "do_resize": False}, "do_resize is false"),
        ("RTDetrImageProcessor", {"size": SIDES, "do_pad": True, "pad_size": SIDES}, "do_pad pads the image"),
        ("ViTImageProcessor", {"size": "large"}, "preprocessor_config.json: size is 'large'; it should be"),
    ],
)
def test_what_is_refused(kind: str, changes: dict[str, Any], sentence: str) -> None:
    (refusal,) = concluded(image_processor_type=kind, **changes).refusals
    assert sentence in refusal


@pytest.mark.parametrize(
    ("missing", "keys"),
    [
        ("do_resize", {"input.size", "input.resize"}),
        ("size", {"input.size", "input.resize"}),
        ("do_normalize", {"input.mean", "input.std"}),
        ("image_std", {"input.std"}),
    ],
)
def test_a_field_that_is_missing_is_not_guessed(missing: str, keys: set[str]) -> None:
    given = {"image_processor_type": "ViTImageProcessor", "size": SIDES, missing: "missing"}
    assert keys <= {choice.key for choice in concluded(**given).choices}


def test_a_crop_that_is_not_stated_is_not_guessed() -> None:
    found = concluded(image_processor_type="CLIPImageProcessor", size=224)
    assert {"input.size", "input.resize"} <= {choice.key for choice in found.choices}


def test_a_crop_says_how_it_is_rounded() -> None:
    (note,) = concluded(image_processor_type="CLIPImageProcessor", size=256, **CROP).notes
    assert "one pixel further left or higher" in note
    assert not concluded(image_processor_type="ViTImageProcessor", size=SIDES).notes


@pytest.mark.parametrize(("side", "said"), [(256, 0), (226, 0), (227, 1)])
def test_a_crop_of_a_squashed_image_is_rounded_where_its_margin_is_odd(side: int, said: int) -> None:
    assert len(concluded(image_processor_type="DeiTImageProcessor", size=side, **CROP).notes) == said
