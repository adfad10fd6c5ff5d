"""Which heads are refused while the event loop is too far behind, and what of a head counts as its budget."""

import pytest

from tta_server.api.http.heads import TARGET, budget_seconds, route_of
from tta_server.api.http.predict import PREDICT
from tta_server.api.oip.http import MODEL, VERSION
from tta_server.serving.deadline import largest_lag, largest_work


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/models/m/predict",
        b"/v1/models/m/predict?budget_ms=5&stop=all",
        b"/v2/models/m/infer",
        b"/v2/models/m/versions/1/infer?x",
    ],
)
def test_targets_of_predictions(target: bytes) -> None:
    found = TARGET.fullmatch(target)
    assert found
    assert (found["v1"] or found["v2"]) == b"m"
    assert found["path"] == target.partition(b"?")[0]


@pytest.mark.parametrize(
    "target",
    [
        *(b"/readyz", b"/livez", b"/metrics", b"/v1/models", b"/v1/models/m", b"/v1/models/m/quote", b"/v2"),
        *(b"/v2/models/m", b"/v2/models/m/ready", b"/v2/repository/models/m/load", b"/v2/health/ready", b"*"),
        *(b"/v1/models/a/b/predict", b"/v1/models//predict", b"/v2/models/stats", b"/x/v1/models/m/predict"),
    ],
)
def test_targets_of_control_requests(target: bytes) -> None:
    assert TARGET.fullmatch(target) is None


@pytest.mark.parametrize(
    ("target", "route"),
    [
        (b"/v1/models/m/predict?x", "/v1/models/{name}/predict"),
        (b"/v1/models/v1/predict", "/v1/models/{name}/predict"),
        (b"/v2/models/models/infer", "/v2/models/{name}/infer"),
        (b"/v2/models/m/versions/m/infer", "/v2/models/{name}/versions/{version}/infer"),
        (b"/v2/models/versions/versions/1/infer", "/v2/models/{name}/versions/{version}/infer"),
    ],
)
def test_routes_are_those_of_the_application(target: bytes, route: str) -> None:
    found = TARGET.fullmatch(target)
    assert found
    assert route_of(found) == route
    assert route in {PREDICT, f"{MODEL}/infer", f"{VERSION}/infer"}


@pytest.mark.parametrize(
    ("query", "header", "seconds"),
    [
        ("", None, None),
        ("stop=all", None, None),
        ("budget_ms=50", None, 0.05),
        ("stop=all&budget_ms=5e1", None, 0.05),
        ("", b"80", 0.08),
        ("budget_ms=50", b"80", 0.05),
        ("budget_ms=80", b"50", 0.05),
        ("budget_ms=soon", None, None),
        ("budget_ms=", b"80", 0.08),
        ("budget_ms=50", b"later", None),
    ],
)
def test_the_budget_of_a_head(query: str, header: bytes | None, seconds: float | None) -> None:
    headers = [(b"host", b"tests")] + ([] if header is None else [(b"x-request-timeout-ms", header)])
    found = budget_seconds(query, headers)
    assert found == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("budget", "lag", "work"),
    [(-1, 0.02, 0.005), (0.02, 0.02, 0.005), (0.2, 0.02, 0.03), (1.0, 0.1, 0.15), (8.0, 0.8, 1.0), (1e6, 1.0, 1.0)],
)
def test_the_largest_lag_and_work_by_hand(budget: float, lag: float, work: float) -> None:
    assert largest_lag(budget) == pytest.approx(lag)
    assert largest_work(budget) == pytest.approx(work)
