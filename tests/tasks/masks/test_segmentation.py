import base64
import io

import numpy as np
import pytest
from PIL import Image

from tests.support.patterns import noise
from tests.support.rendered import rendered
from tta_server.errors import ConfigError
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.masks.maps import ScoreMaps
from tta_server.tasks.masks.output import MapsOutput
from tta_server.tasks.masks.segmentation import Segmentation
from tta_server.tasks.render.palette import color_of
from tta_server.views.geometry import Size
from tta_server.views.view import View

LABELS = ("ground", "tree", "sky")


def task(labels=LABELS, kind="probabilities"):
    return Segmentation(labels, MapsOutput(kind), {"maps": (None, len(labels), None, None)})


def scene_of(prep, image):
    return ImageFrame(image, prep.place(View(), image))


# ---- answers ----


def answered(prep, image, maps, labels=LABELS, include=(), merge="mean_probabilities"):
    """The answer to views' maps (C, h, w) of probabilities on the plain view's tensor."""
    wanted, scene = ResponseSpec(frozenset(include)), scene_of(prep, image)
    segmentation = task(labels)
    accumulator = segmentation.accumulator(merge, wanted, scene)
    views = [segmentation.decode({"maps": np.float32(m)[None]}, 0, scene.plain, scene) for m in maps]
    for view in views:
        accumulator.add(view, 1.0)
    kept = [segmentation.view_result(view) for view in views]
    return rendered(segmentation.result(accumulator.result(), kept, scene, wanted), wanted)


def picture(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def one_hot_maps(labels, classes=3):
    return (np.asarray(labels) == np.arange(classes).reshape(-1, 1, 1)).astype(np.float32)


def test_the_mask_holds_each_pixel_s_class_at_the_image_s_size():
    labels = noise(Size(20, 12), 1)[:, :, 0] % 3
    answer = answered(Preprocessing(), Size(20, 12), [one_hot_maps(labels)])
    np.testing.assert_array_equal(picture(answer.prediction["mask"]), labels)
    assert answer.prediction.keys() == {"height", "width", "area", "mask"}
    assert (answer.prediction["height"], answer.prediction["width"]) == (12, 20)
    assert answer.prediction["area"] == {name: int((labels == i).sum()) for i, name in enumerate(LABELS)}
    assert base64.b64encode(answer.picture).decode() == answer.prediction["mask"]


@pytest.mark.parametrize(
    ("prep", "split"),
    [
        (Preprocessing(Size(32, 32), Resize.EXACT), np.s_[:, :, 16:]),
        (Preprocessing(Size(32, 32), Resize.LETTERBOX), np.s_[:, :, 16:]),
        (Preprocessing(None, Resize.SHORT, 30, multiple=16), np.s_[:, :, 16:]),
    ],
)
def test_the_mask_is_enlarged_to_the_image_without_a_shift(prep, split):
    image = Size(320, 300)  # taller than a strip
    maps = one_hot_maps(np.zeros((32, 32)))
    maps[split] = one_hot_maps(np.ones((1, 1)))
    mask = picture(answered(prep, image, [maps]).prediction["mask"])
    np.testing.assert_array_equal(mask[:, :160], 0)
    np.testing.assert_array_equal(mask[:, 160 + 1 :], 1)


def test_rows_do_not_shift_from_strip_to_strip():
    steps = np.repeat(np.arange(40) % 2, 1)[:, None] * np.ones((1, 8))
    mask = picture(
        answered(Preprocessing(Size(8, 40), Resize.EXACT), Size(8, 400), [one_hot_maps(steps)]).prediction["mask"]
    )
    np.testing.assert_array_equal(mask[5::10, 0], np.arange(40) % 2)  # the middle of each enlarged row


def test_a_coarse_map_is_enlarged_to_the_image():
    maps = one_hot_maps([[0, 1, 2, 0], [1, 1, 2, 2]])
    mask = picture(answered(Preprocessing(), Size(32, 16), [maps]).prediction["mask"])
    np.testing.assert_array_equal(mask[4::8, 4::8], [[0, 1, 2, 0], [1, 1, 2, 2]])


def test_agreement_is_the_share_of_views_that_vote_for_the_merged_class():
    first, second = np.zeros((4, 6), int), np.zeros((4, 6), int)
    second[:, 3:] = 1
    views = [one_hot_maps(first), one_hot_maps(first) * 0.9 + 0.05, one_hot_maps(second)]
    answer = answered(Preprocessing(), Size(6, 4), views, include=["agreement"])
    shares = picture(answer.prediction["agreement"]) / 255
    np.testing.assert_allclose(shares[:, :3], 1)
    np.testing.assert_allclose(shares[:, 3:], 2 / 3, atol=0.005)
    assert answer.prediction["mean_agreement"] == pytest.approx(5 / 6, abs=1e-6)
    assert [view["agreement"] for view in answer.views] == [1, 1, 0.5]


def test_probabilities_are_pictures_of_16_bits():
    maps = np.stack([np.full((4, 6), p) for p in (0.5, 0.3, 0.2)])
    pictures = answered(Preprocessing(), Size(6, 4), [maps], include=["probabilities"]).prediction["probabilities"]
    assert list(pictures) == list(LABELS)
    for name, share in zip(LABELS, (0.5, 0.3, 0.2), strict=True):
        np.testing.assert_allclose(picture(pictures[name]), share * 65535, atol=1)


def test_ties_go_to_the_lower_class():
    mask = picture(answered(Preprocessing(), Size(6, 4), [np.full((3, 4, 6), 1 / 3)]).prediction["mask"])
    np.testing.assert_array_equal(mask, 0)


@pytest.mark.parametrize("classes", [2, 256, 300])
def test_masks_of_many_classes_hold_the_highest_index(classes):
    labels = [f"c{i}" for i in range(classes)]
    maps = one_hot_maps(np.full((3, 4), classes - 1), classes)
    answer = answered(Preprocessing(), Size(4, 3), [maps], labels)
    np.testing.assert_array_equal(picture(answer.prediction["mask"]), classes - 1)
    assert answer.prediction["area"][labels[-1]] == 12


def test_the_palette_tells_classes_apart():
    assert len({color_of(i) for i in range(64)}) == 64
    answer = answered(Preprocessing(), Size(3, 1), [one_hot_maps([[0, 1, 2]])])
    seen_colors = np.asarray(Image.open(io.BytesIO(answer.picture)).convert("RGB"))[0]
    assert [tuple(c) for c in seen_colors] == [color_of(i) for i in range(3)]


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (1, 3), (1, 3, 8)])
def test_outputs_of_another_shape_are_refused_naming_both(shape):
    with pytest.raises(ConfigError, match=r"with 3 labels needs an output maps of shape \[N, 3, h, w\]; .* gives \["):
        task().check({"maps": np.zeros(shape, np.float32)}, Size(8, 8))


def test_nan_is_unsound():
    maps = np.zeros((3, 4, 4), np.float32)
    assert task().is_sound(ScoreMaps(maps))
    maps[1, 2, 3] = np.nan
    assert not task().is_sound(ScoreMaps(maps))
