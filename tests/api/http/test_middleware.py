"""HEAD and OPTIONS on every path; cross-origin requests where `--cors-origin` allows them, errors too."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from tests.support import pictures
from tests.support.serving import Server, models_folder
from tests.support.wording import check_sentence
from tta_server.api.http.app import create_app
from tta_server.application import Application
from tta_server.cli.sources import read_settings
from tta_server.errors import ConfigError
from tta_server.settings import Settings

KEY = "alice-0123456789abcdef"
HERE, THERE = "https://example.org", "https://elsewhere.org:8443"
PREDICT = "/v1/models/cifar10/predict"
V1 = ("/v1/models", "/v1/models/clothing", "/v1/policies", "/v1/models/clothing/quote")
V2 = ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats", "/v2/models/clothing")
MODEL = tuple(f"/v2/models/clothing{rest}" for rest in ("/ready", "/config", "/stats", "/versions/1/stats"))
GETS = ("/", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json", *V1, *V2, *MODEL)
POSTS = ("/v1/models/clothing/predict", "/v2/models/clothing/infer", "/v2/repository/index")


# ---- HEAD and OPTIONS ----


@pytest.mark.parametrize("path", GETS)
def test_head_is_get_without_a_body(client: httpx.Client, path: str) -> None:
    head, got = client.head(path), client.get(path)
    assert head.status_code == got.status_code
    assert head.content == b""
    assert head.headers["content-type"] == got.headers["content-type"] if "content-type" in got.headers else True
    assert "x-request-id" in head.headers


@pytest.mark.parametrize("path", ["/nothing", "/v1/models/nothing", "/v2/models/nothing"])
def test_head_of_an_unknown_path_is_404(client: httpx.Client, path: str) -> None:
    head = client.head(path)
    assert (head.status_code, head.content) == (404, b"")


@pytest.mark.parametrize("path", POSTS)
def test_head_of_a_post_path_is_405(client: httpx.Client, path: str) -> None:
    head = client.head(path)
    assert (head.status_code, head.content, head.headers["allow"]) == (405, b"", "POST")


@pytest.mark.parametrize(("paths", "allowed"), [(GETS, "GET, HEAD, OPTIONS"), (POSTS, "OPTIONS, POST")])
def test_options_lists_the_methods(client: httpx.Client, paths: tuple[str, ...], allowed: str) -> None:
    for path in paths:
        answer = client.options(path)
        assert (answer.status_code, answer.content, answer.headers["allow"]) == (204, b"", allowed), path


def test_options_of_an_unknown_path_is_404(client: httpx.Client) -> None:
    assert client.options("/nothing").status_code == 404


def test_the_docs_list_no_method_twice(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert all(len(operations) == 1 for operations in paths.values())


# ---- cross origin ----


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models_folder(tmp_path_factory.mktemp("models"), "cifar10")


@pytest.fixture(scope="module")
def open_server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Needs a key and allows two origins."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{KEY}\n")
    arguments = ("--models", str(models), "--port", "0", "--no-grpc", "--keys", str(keys), "--max-bytes", "100000")
    with Server(*arguments, "--cors-origin", f"{HERE}:443", "--cors-origin", THERE) as running:
        assert running.url
        yield running


def preflight(client: httpx.Client, origin: str, method: str = "POST") -> httpx.Response:
    """As browsers send it: without a key, with the names of the request's headers."""
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type,x-request-id",
    }
    return client.options(PREDICT, headers=headers)


@pytest.mark.parametrize("origin", [HERE, THERE])
def test_a_preflight_needs_no_key(open_server: Server, origin: str) -> None:
    with open_server.client() as client:
        answer = preflight(client, origin)
        assert (answer.status_code, answer.content) == (204, b"")
        headers = answer.headers
        assert headers["access-control-allow-origin"] == origin
        assert "POST" in headers["access-control-allow-methods"].split(", ")
        assert headers["access-control-allow-headers"] == "authorization,content-type,x-request-id"
        assert int(headers["access-control-max-age"]) > 0
        assert "x-request-id" in headers


@pytest.mark.parametrize(
    ("origin", "method"),
    [
        ("https://example.com", "POST"),
        ("http://example.org", "POST"),
        (f"{HERE}.evil", "POST"),
        ("null", "POST"),
        (HERE, "DELETE"),
    ],
)
def test_a_preflight_of_another_origin_is_refused(open_server: Server, origin: str, method: str) -> None:
    with open_server.client() as client:
        answer = preflight(client, origin, method)
        assert answer.status_code == 400
        assert check_sentence(answer.json()["error"]).endswith("is not allowed; see --cors-origin")
        if origin != HERE:
            assert "access-control-allow-origin" not in answer.headers


def test_answers_and_errors_may_be_read(open_server: Server) -> None:
    key = {"Authorization": f"Bearer {KEY}"}
    with open_server.client(headers={"Origin": HERE}) as client:
        answers = [
            (200, client.post(PREDICT, content=pictures.png(32, 32), headers=key, params={"budget_ms": "5000"})),
            (200, client.get("/livez")),
            (400, client.post(PREDICT, content=b"", headers=key)),
            (401, client.post(PREDICT, content=pictures.png(32, 32))),
            (404, client.get("/nothing", headers=key)),
            (405, client.get(PREDICT, headers=key)),
            (413, client.post(PREDICT, content=bytes(100_001), headers=key)),
            (415, client.post(PREDICT, content=b"no image", headers=key)),
        ]
        for status, answer in answers:
            assert answer.status_code == status, answer.text
            assert answer.headers["access-control-allow-origin"] == HERE
            assert "Origin" in answer.headers["vary"]
            exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
            assert {"x-request-id", "server-timing", "retry-after", "tta-views"} <= set(exposed)


def test_answers_to_other_origins_have_no_cross_origin_headers(open_server: Server) -> None:
    with open_server.client() as client:
        answer = client.get("/livez", headers={"Origin": "https://example.com"})
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers
        assert "access-control-allow-origin" not in client.get("/livez").headers


def test_an_overload_may_be_read_by_every_origin_with_a_star(models: Path) -> None:
    arguments = ("--models", str(models), "--port", "0", "--no-grpc", "--max-waiting-mb", "1")
    with Server(*arguments, env={"TTA_CORS_ORIGIN": "*"}) as server, server.client() as client:
        assert preflight(client, "https://anywhere.net").headers["access-control-allow-origin"] == "*"
        answer = client.post(PREDICT, content=bytes(2_000_000), headers={"Origin": HERE})
        assert answer.status_code == 429
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["retry-after"] == "1"


def test_an_internal_error_may_be_read_and_is_one_sentence(models: Path) -> None:
    app = create_app(Application.load(Settings(models=models, cors_origin=(HERE,))))

    async def fail(request: Request) -> Response:
        raise RuntimeError("the insides")

    app.add_route("/fails", fail)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.get("/fails", headers={"Origin": HERE, "X-Request-Id": "mine"})

    answer = asyncio.run(ask())
    assert answer.status_code == 500
    assert answer.json() == {"error": "internal error; quote this request id to the operator", "code": "internal"}
    assert answer.headers["access-control-allow-origin"] == HERE
    assert answer.headers.get_list("x-request-id") == ["mine"]


def test_without_the_option_no_other_origin_is_allowed(client: httpx.Client) -> None:
    assert preflight(client, HERE).status_code == 204  # as any OPTIONS
    for answer in (preflight(client, HERE), client.get("/livez", headers={"Origin": HERE})):
        assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("*", "*"),
        ("https://Example.org", "https://example.org"),
        ("https://example.org:443", "https://example.org"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:80", "http://[::1]"),
        ("http://[2001:DB8::1]:8080", "http://[2001:db8::1]:8080"),
        ("https://xn--bcher-kva.de", "https://xn--bcher-kva.de"),
        ("http://my_host.local.:1", "http://my_host.local.:1"),
        ("chrome-extension://abc", "chrome-extension://abc"),
    ],
)
def test_an_origin_is_normalized_as_browsers_write_it(given: str, read: str) -> None:
    assert Settings(cors_origin=(given,)).cors_origin == (read,)


@pytest.mark.parametrize(
    "given",
    [
        *("example.org", "https://example.org/", "https://a b", "", "https://*.example.org", "//a"),
        *("https://a.org,b.org", "https://a.org,https://b.org", "https://a.org,", "https://bücher.de", "https://ſ.de"),
        *("https://a.org:", "https://a.org:99999", "https://a.org:0", "https://a.org:x", "https://a..org", "https://"),
        *("http://[::g]", "http://[1:2]", "http://::1", "http://u:p@a.org", "https://a.org\n", "null"),
    ],
)
def test_an_invalid_origin_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match=r"^--cors-origin: .* is no origin.*separated by spaces, not commas"):
        read_settings(cors_origin=[given])
