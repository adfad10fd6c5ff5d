"""Every invalid request gets a status of the table, one sentence, a code and a request id; the server goes on."""

import asyncio
import http.client
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.conftest import MAX_BYTES
from tests.support import pictures, references
from tests.support.serving import Server, models_folder
from tests.support.toys import RED, faulty_model
from tta_server.api.errors import HTTP_STATUS, error_response
from tta_server.api.http.app import create_app
from tta_server.application import Application
from tta_server.errors import Code, Overloaded, TTAError
from tta_server.settings import Settings

CLOTHING = "/v1/models/clothing/predict"
JPEG_2000 = pictures.encoded(pictures.pixels(8, 8), "JPEG2000")
DEEP = '["identity",' + "[" * 3000 + "]" * 3000 + "]"


def check_error(response: httpx.Response, status: int, code: str) -> str:
    """Check what every error response has; return its sentence."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["X-Request-Id"]
    body = response.json()
    assert set(body) == ({"error", "code", "retry_after_ms"} if status == 429 else {"error", "code"})
    assert body["code"] == code
    sentence: str = body["error"]
    assert sentence
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    assert not re.search(r"/work|/home|/tmp|site-packages|\.py\b|onnxruntime", sentence)
    return sentence


# ---- the table ----


def test_every_code_has_a_status() -> None:
    assert set(HTTP_STATUS) == set(Code)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("invalid_input", 400),
        ("unknown_model", 404),
        ("too_large", 413),
        ("unsupported_media", 415),
        ("overloaded", 429),
        ("backend_failed", 502),
        ("not_ready", 503),
        ("deadline_exceeded", 504),
    ],
)
def test_each_code_has_its_status(code: str, status: int) -> None:
    assert HTTP_STATUS[Code(code)] == status


def family(error: type[TTAError]) -> list[type[TTAError]]:
    return [error, *(found for child in error.__subclasses__() for found in family(child))]


@pytest.mark.parametrize("kind", family(TTAError), ids=lambda kind: kind.__name__)
def test_every_error_of_the_family_has_a_response(kind: type[TTAError]) -> None:
    error = Overloaded("busy", 0.2) if kind is Overloaded else kind("a sentence")
    response = error_response(error)
    assert response.status_code == HTTP_STATUS[kind.code]
    assert json.loads(bytes(response.body))["code"] == kind.code


@pytest.mark.parametrize(
    ("seconds", "header", "ms"),
    [(0.0, "1", 0), (0.0301, "1", 31), (1.0, "1", 1000), (1.2, "2", 1200), (7.5, "8", 7500)],
)
def test_retry_after_is_whole_seconds_and_at_least_one(seconds: float, header: str, ms: int) -> None:
    response = error_response(Overloaded("busy", seconds))
    assert response.headers["Retry-After"] == header
    assert json.loads(bytes(response.body))["retry_after_ms"] == ms


# ---- the query ----


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("budget=100", "unknown key 'budget'; known: budget_ms, priority, policy"),
        ("Budget_ms=100", "unknown key"),
        ("%00=1", "unknown key"),
        ("budget_ms=", "budget_ms takes"),
        ("budget_ms=fast", "budget_ms takes.*'fast'"),
        ("budget_ms=0", "budget_ms takes.*10000"),
        ("budget_ms=-5", "budget_ms takes.*10000"),
        ("budget_ms=nan", "budget_ms takes.*10000"),
        ("budget_ms=1e999", "budget_ms takes.*10000"),
        ("budget_ms=inf", "budget_ms takes.*10000"),
        ("budget_ms=0.001", r"budget is too small.*\d+ ms"),
        ("budget_ms=100&budget_ms=200", "budget_ms is given more than once"),
        ("max_views=0", "max_views takes"),
        ("max_views=1.5", "max_views takes"),
        ("max_views=two", "max_views takes"),
        ("max_views=1e3", "max_views takes"),
        ("min_views=0", "min_views takes.*'all'"),
        ("min_views=-1", "min_views takes.*'all'"),
        ("min_views=most", "min_views takes.*'all'.*'most'"),
        ("min_views=9", "only 8 views"),
        ("min_views=3&max_views=2", "only 2 views"),
        ("top_k=0", "top_k takes"),
        ("top_k=x", "top_k takes"),
        ("merge=median", "unknown merge 'median'; clothing knows mean_probabilities"),
        ("merge=", "unknown merge"),
        ("stop=", "unknown stop"),
        ("stop=maybe", "unknown stop 'maybe'; known: all, certain"),
        ("stop=certain&merge=max", "merge max has no bound"),
        ('stop={"epsilon":0.0001}', "below every calibrated value"),
        ('stop={"open":0.01}', "stop open is not available for classification"),
        ("include=everything", "unknown include 'everything'; clothing knows views"),
        ("policy=nope", "unknown policy 'nope'; presets: plain"),
        ("policy=", "unknown policy ''"),
        ("policy=d4", "vflip.*symmetries: hflip"),
        ('policy=["identity","vflip"]', "vflip.*symmetries: hflip"),
        ('policy=["hflip"]', "it must be the plain view, 'identity'"),
        ('policy=["hflip","identity"]', "it must be the plain view, 'identity'"),
        ("policy=[]", "the policy is empty"),
        ('policy=["identity"', "JSON"),
        ('policy={"a":1}', "list of views"),
        ('policy=["identity",{"spin":1}]', "view 2: unknown primitive 'spin'"),
        ('policy=["identity",{"rotate":"far"}]', "view 2: rotate takes a number"),
        ('policy=["identity",{"rotate":1e999}]', "view 2: rotate takes a number"),
        ('policy=["identity",NaN]', "view 2"),
        (f"policy={DEEP}", "JSON|view 2"),
        ("policy=" + "[" * 8_000, "JSON"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_invalid_query_is_refused_with_what_is_allowed(client: httpx.Client, query: str, expected: str) -> None:
    response = client.post(f"{CLOTHING}?{query}", content=pictures.png(32, 32))
    assert re.search(expected, check_error(response, 400, "invalid_input"))


def test_long_values_are_not_echoed_whole(client: httpx.Client) -> None:
    for key in ("policy", "merge", "stop", "include", "budget_ms", "min_views", "x" * 5000):
        response = client.post(CLOTHING, params={key: "y" * 5000}, content=pictures.png(32, 32))
        assert len(check_error(response, 400, "invalid_input")) < 1000


# ---- paths ----


def test_an_unknown_model_names_the_known_ones(client: httpx.Client) -> None:
    for response in (client.post("/v1/models/none/predict", content=b"x"), client.get("/v1/models/none")):
        assert "bloodcells, cifar10, clothing, mouse, nuclei, nuclei-count" in check_error(
            response, 404, "unknown_model"
        )


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1", "/v1/models/clothing/predict/more", "/v1/models//predict", "/.env"]
)
def test_an_unknown_path_is_404(client: httpx.Client, path: str) -> None:
    check_error(client.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", CLOTHING), ("PUT", CLOTHING), ("DELETE", "/v1/models"), ("POST", "/livez")]
)
def test_a_wrong_method_is_405(client: httpx.Client, method: str, path: str) -> None:
    check_error(client.request(method, path), 405, "method_not_allowed")


# ---- images ----

PNG, JPEG = pictures.png(), pictures.jpeg()

BODIES = {
    "empty": (b"", 400, "invalid_input"),
    "text": (b"hello, this is no image", 415, "unsupported_media"),
    "one byte": (b"\xff", 415, "unsupported_media"),
    "jpeg 2000": (JPEG_2000, 415, "unsupported_media"),
    "pdf": (b"%PDF-1.7 ...", 415, "unsupported_media"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported_media"),
    "png magic only": (PNG[:8], 400, "invalid_input"),
    "png header only": (PNG[:33], 400, "invalid_input"),
    "png cut": (PNG[: len(PNG) // 2], 400, "invalid_input"),
    "png garbled": (PNG[:60] + bytes(len(PNG) - 60), 400, "invalid_input"),
    "jpeg magic only": (JPEG[:3], 400, "invalid_input"),
    "jpeg header only": (JPEG[:20], 400, "invalid_input"),
    "bmp magic only": (b"BM" + bytes(10), 400, "invalid_input"),
    "tiff magic only": (b"II*\0" + bytes(10), 400, "invalid_input"),
    "webp magic only": (b"RIFF\0\0\0\0WEBP", 400, "invalid_input"),
    "png of 254 bytes that grows to 1.28 Gpx": (pictures.true_png(60_000, 1), 413, "too_large"),
    "png that declares 2 Gpx": (pictures.png_that_says(46_000, 46_000), 413, "too_large"),
    "png that declares the largest size": (pictures.png_that_says(2**31 - 1, 2**31 - 1), 413, "too_large"),
    "png that lies about its size": (pictures.png_that_says(300, 300), 400, "invalid_input"),
    "png of no size": (pictures.png_that_says(0, 10), 400, "invalid_input"),
}


@pytest.mark.parametrize("name", BODIES)
def test_an_unsupported_body_is_refused(client: httpx.Client, name: str) -> None:
    body, status, code = BODIES[name]
    check_error(client.post(CLOTHING, content=body), status, code)


def test_a_truncated_jpeg_is_refused_or_answered_but_no_internal_error(client: httpx.Client) -> None:
    for part in range(1, 20):
        response = client.post(CLOTHING, content=JPEG[: len(JPEG) * part // 20], params={"policy": "plain"})
        assert response.status_code in (200, 400), response.text


def test_a_task_without_a_picture_refuses_image_png(client: httpx.Client) -> None:
    response = client.post(CLOTHING, content=PNG, headers={"Accept": "image/png"})
    assert "no image/png answer" in check_error(response, 400, "invalid_input")


def test_an_image_over_the_models_size_is_too_large(client: httpx.Client) -> None:
    response = client.post("/v1/models/mouse/predict", content=pictures.png_that_says(1600, 64))
    assert "1024" in check_error(response, 413, "too_large")


# ---- bytes ----


def test_too_many_bytes_are_refused_before_they_are_read(server: Server) -> None:
    """The response comes after the Content-Length, without the body."""
    url = httpx.URL(server.url)
    connection = http.client.HTTPConnection(url.host, url.port, timeout=30)
    connection.putrequest("POST", CLOTHING)
    connection.putheader("Content-Length", str(MAX_BYTES + 1))
    connection.endheaders()
    response = connection.getresponse()
    body = json.loads(response.read())
    connection.close()
    assert (response.status, body["code"]) == (413, "too_large")
    assert response.getheader("X-Request-Id")


def test_too_many_bytes_in_chunks_are_refused(client: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        yield PNG[:33]
        for _ in range(2 * MAX_BYTES // 65_536):
            yield bytes(65_536)

    check_error(client.post(CLOTHING, content=endless()), 413, "too_large")


def test_too_many_bytes_in_multipart_are_refused(client: httpx.Client) -> None:
    files = {"image": ("a.png", PNG + bytes(MAX_BYTES + 1 - len(PNG)))}
    check_error(client.post(CLOTHING, files=files), 413, "too_large")


def test_a_body_of_exactly_the_limit_is_accepted(client: httpx.Client) -> None:
    response = client.post(CLOTHING, content=PNG + bytes(MAX_BYTES - len(PNG)), params={"policy": "plain"})
    assert response.status_code == 200, response.text


# ---- multipart ----


def multipart(*parts: bytes) -> bytes:
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"


FILE = b'Content-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + PNG
FORMS = {
    "another field": (multipart(FILE.replace(b'"image"', b'"photo"')), "multipart/form-data; boundary=b"),
    "no file name": (
        multipart(b'Content-Disposition: form-data; name="image"\r\n\r\nx'),
        "multipart/form-data; boundary=b",
    ),
    "two files": (multipart(FILE, FILE), "multipart/form-data; boundary=b"),
    "no part": (b"--b--\r\n", "multipart/form-data; boundary=b"),
    "nothing": (b"", "multipart/form-data; boundary=b"),
    "no boundary": (multipart(FILE), "multipart/form-data"),
    "another boundary": (multipart(FILE), "multipart/form-data; boundary=c"),
    "truncated": (multipart(FILE)[:200], "multipart/form-data; boundary=b"),
    "no headers": (multipart(b"\r\n" + PNG), "multipart/form-data; boundary=b"),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_without_its_image_is_refused(client: httpx.Client, name: str) -> None:
    body, kind = FORMS[name]
    check_error(client.post(CLOTHING, content=body, headers={"Content-Type": kind}), 400, "invalid_input")


def test_an_empty_file_in_a_form_is_an_empty_image(client: httpx.Client) -> None:
    assert "empty" in check_error(client.post(CLOTHING, files={"image": ("a.png", b"")}), 400, "invalid_input")


# ---- not ready, overloaded ----


def test_until_models_are_warm_the_server_is_alive_but_not_ready(tmp_path: Path) -> None:
    app = create_app(Application.load(Settings(models=models_folder(tmp_path, "cifar10"))))

    async def request_all() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            predict = await client.post("/v1/models/cifar10/predict", content=pictures.png(32, 32))
            return [predict, await client.get("/readyz"), await client.get("/livez")]

    predict, ready, live = asyncio.run(request_all())
    check_error(predict, 503, "not_ready")
    check_error(ready, 503, "not_ready")
    assert live.status_code == 200


@pytest.mark.timing
def test_nan_is_502_and_a_model_that_hangs_is_504(tmp_path: Path) -> None:
    """The model gives NaN for black images and takes seconds for red ones."""
    faulty_model(tmp_path / "moody")
    application = Application.load(Settings(models=tmp_path, slots=2))
    application.warm()
    shades = [pictures.encoded(np.full((8, 8, 3), shade, np.uint8)) for shade in (0, RED, 100)]

    patient, hasty = {"budget_ms": "10000"}, {"budget_ms": "200", "max_views": "1"}

    async def request_all() -> list[httpx.Response]:
        transport = httpx.ASGITransport(create_app(application))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return [
                await client.post("/v1/models/moody/predict", content=shade, params=query)
                for shade, query in zip(shades, (patient, hasty, patient), strict=True)
            ]

    try:
        black, red, grey = asyncio.run(request_all())
    finally:
        application.close()
    check_error(black, 502, "backend_failed")
    check_error(red, 504, "deadline_exceeded")
    assert grey.status_code == 200


@pytest.mark.timing
def test_under_overload_requests_are_answered_or_refused_with_retry_after(tmp_path: Path) -> None:
    folder = models_folder(tmp_path, "clothing")
    query = {"budget_ms": "10000", "min_views": "all", "include": "probabilities"}
    arguments = ["--port", "0", "--slots", "1", "--max-waiting", "1", "--models", str(folder)]
    image = pictures.png(seed=7)
    with Server(*arguments) as server:
        start = threading.Barrier(12)

        def request_repeatedly(_: int) -> list[httpx.Response]:
            with server.client() as client:
                start.wait(30)
                return [client.post(CLOTHING, content=image, params=query) for _ in range(5)]

        assert server.url
        with ThreadPoolExecutor(12) as clients:
            responses = [response for each in clients.map(request_repeatedly, range(12)) for response in each]
    assert {response.status_code for response in responses} == {200, 429}
    for response in responses:
        if response.status_code == 429:
            check_error(response, 429, "overloaded")
            assert int(response.headers["Retry-After"]) >= 1
            assert response.json()["retry_after_ms"] > 0
    answers = [r.json()["prediction"]["probabilities"] for r in responses if r.status_code == 200]
    np.testing.assert_allclose(answers, [answers[0]] * len(answers), atol=1e-5)


# ---- afterwards ----


@pytest.mark.timing
def test_after_many_bad_requests_answers_are_correct(server: Server, client: httpx.Client) -> None:
    def send_bad_requests(number: int) -> None:
        with server.client() as own:
            for body, _, _ in list(BODIES.values())[number::4]:
                own.post(CLOTHING, content=body)
                own.post(CLOTHING, content=body, params={"policy": DEEP[: 1000 * number]})
            for body, kind in list(FORMS.values())[number::4]:
                own.post(CLOTHING, content=body, headers={"Content-Type": kind})

    with ThreadPoolExecutor(4) as clients:
        list(clients.map(send_bad_requests, range(4)))
    response = client.post(CLOTHING, content=JPEG, params={"policy": "plain", "include": "probabilities"})
    probabilities = np.array(response.json()["prediction"]["probabilities"], np.float32)
    assert np.array_equal(probabilities, references.clothing(pictures.opened(JPEG)))
    assert "Traceback" not in "".join(server.lines["stderr"])
