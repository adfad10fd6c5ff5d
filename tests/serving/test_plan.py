"""Plans: options and model resolved, or refused in a sentence that says what is allowed."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.references import MODELS
from tta_server.errors import InvalidInput
from tta_server.repository.loader import load_model
from tta_server.repository.model import Model
from tta_server.scheduling.costs import Bucket
from tta_server.serving.layout import make_layout
from tta_server.serving.plan import Options, budget_ms, make_plan
from tta_server.views.geometry import Size
from tta_server.views.presets import PRESETS


@pytest.fixture(scope="module")
def clothing() -> Model:
    return load_model(MODELS / "clothing")


@pytest.fixture(scope="module")
def nuclei() -> Model:
    return load_model(MODELS / "nuclei")


# ---- laws ----


@given(most=st.none() | st.integers(1, 300), least=st.none() | st.integers(1, 8) | st.just("all"))
def test_a_plan_is_a_prefix_of_its_policy(clothing: Model, most: int | None, least: int | str | None) -> None:
    try:
        plan = make_plan(clothing, Options(max_views=most, min_views=least))
    except InvalidInput:
        assert isinstance(least, int)
        assert least > (most or 8)
        return
    assert plan.views == clothing.policy.views[: len(plan.views)]
    assert len(plan.views) == min(most or 8, 8)
    assert plan.mandatory == {None: 1, "all": len(plan.views)}.get(least, least)
    assert plan.views[0].is_plain


@given(st.text(max_size=40))
def test_any_text_for_a_policy_is_a_plan_or_one_sentence(clothing: Model, text: str) -> None:
    try:
        plan = make_plan(clothing, Options(policy=text))
    except InvalidInput as refusal:
        sentence = str(refusal)
    else:
        sentence = "a plan"
        assert text in PRESETS or plan.policy.name == "inline"
    assert sentence
    assert "\n" not in sentence


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["identity", "hflip"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["rotate", "x", "steps"]), inner),
    max_leaves=8,
)


@given(st.lists(json_values, max_size=3))
def test_any_json_for_a_policy_is_a_plan_or_one_sentence(clothing: Model, views: list[object]) -> None:
    try:
        plan = make_plan(clothing, Options(policy=json.dumps(["identity", *views])))
    except InvalidInput as refusal:
        sentence = str(refusal)
    else:
        sentence = "a plan"
        assert plan.views[0].is_plain
    assert sentence


@given(st.floats())
def test_a_budget_is_over_nothing_and_up_to_the_models_longest(clothing: Model, budget: float) -> None:
    if 0 < budget < math.inf:
        assert budget_ms(clothing, budget) == min(budget, 10_000)
    else:
        with pytest.raises(InvalidInput, match="10000"):
            budget_ms(clothing, budget)


@given(st.integers(1, 900), st.integers(1, 900))
def test_all_views_of_a_model_of_fixed_size_share_one_bucket(clothing: Model, width: int, height: int) -> None:
    layout = make_layout(make_plan(clothing, Options()), Size(width, height))
    assert set(layout.buckets) == {Bucket("clothing", 128, 128)}


@given(st.integers(1, 900), st.integers(1, 900))
def test_views_of_a_model_of_free_size_have_the_padded_size_or_its_transpose(
    nuclei: Model, width: int, height: int
) -> None:
    layout = make_layout(make_plan(nuclei, Options()), Size(width, height))
    padded_width, padded_height = -(-width // 16) * 16, -(-height // 16) * 16
    assert layout.buckets[0] == Bucket("nuclei", padded_height, padded_width)
    assert set(layout.buckets) <= {layout.buckets[0], Bucket("nuclei", padded_width, padded_height)}
    assert [b.area for b in layout.buckets] == [padded_width * padded_height] * 8


# ---- examples ----


def test_what_is_not_asked_for_is_the_models_own(clothing: Model) -> None:
    plan = make_plan(clothing, Options())
    assert plan.policy is clothing.policy
    assert (plan.mandatory, plan.merge, budget_ms(clothing, None)) == (1, "mean_probabilities", 200)
    assert plan.wanted.top_k == 5
    assert not plan.keeps_view_results


@pytest.mark.parametrize("include", ["views", "agreement"])
def test_view_results_are_kept_only_where_they_are_included(clothing: Model, include: str) -> None:
    assert make_plan(clothing, Options(include=frozenset([include]))).keeps_view_results


def test_more_classes_than_there_are_means_all(clothing: Model) -> None:
    assert make_plan(clothing, Options(top_k=1000)).wanted.top_k == 10


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (Options(policy="nope"), "presets: plain, hflip"),
        (Options(policy="flips"), "vflip.*symmetries: hflip"),
        (Options(policy='["identity", "vflip"]'), "vflip.*symmetries: hflip"),
        (Options(policy='["hflip"]'), "it must be the plain view, 'identity'"),
        (Options(policy="[]"), "it needs at least the plain view"),
        (Options(policy='["identity"'), "JSON"),
        (Options(policy='{"identity": true}'), "list of views"),
        (Options(policy="[" * 8000), "JSON"),
        (Options(policy="[" * 100_000), "at most 8192"),
        (Options(policy='["identity", {"rotate": 31}]'), "rotation.*limit of 30"),
        (Options(policy='["identity", {"zoom": 3}]'), "zoom.*limit of 2"),
        (Options(policy='["identity", {"shift": [40, 0]}]'), "shift.*limit of 32"),
        (Options(policy=json.dumps(["identity"] * 257)), "the limit is 256"),
        (Options(policy='["identity", {"steps": ["hflip"], "weight": [1, 2]}]'), "2 weights.*10 labels"),
        (Options(max_views=0), "max_views.*at least 1"),
        (Options(min_views=0), "min_views.*'all'"),
        (Options(min_views="some"), "min_views.*'all'"),
        (Options(min_views=9), "only 8 views"),
        (Options(min_views=3, max_views=2), "only 2 views"),
        (Options(merge="median"), "clothing knows mean_probabilities"),
        (Options(stop="maybe"), "known: all, certain"),
        (Options(include=frozenset(["x"])), "clothing knows views"),
        (Options(top_k=0), "top_k.*at least 1"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_refusals_say_what_is_allowed(clothing: Model, options: Options, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        make_plan(clothing, options)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_planned_or_breaks_a_symmetry(clothing: Model, nuclei: Model, name: str) -> None:
    assert make_plan(nuclei, Options(policy=name)).views[0].is_plain
    if name in ("flips", "d4"):
        with pytest.raises(InvalidInput, match="does not keep this model's labels"):
            make_plan(clothing, Options(policy=name))
    else:
        assert make_plan(clothing, Options(policy=name)).policy.name == name
