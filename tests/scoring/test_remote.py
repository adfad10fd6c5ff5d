"""What a run asks a server, and how often: by a client that replies from a script, in virtual time."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.serving import PATIENCE
from tta_server.errors import BackendUnavailable, ConfigError, InvalidInput
from tta_server.imaging.decoding import Limits
from tta_server.scoring.batches import InputImage, Scored
from tta_server.scoring.gate import Gate
from tta_server.scoring.remote import TRIES, RemotePlan, RemoteScorer, open_remote
from tta_server.scoring.server_client import ConnectionLost, Reply, ServerClient
from tta_server.serving.answer import Answer

DIGEST = "sha256:1"
ABOUT = {
    "name": "toy",
    "version": "3",
    "digest": DIGEST,
    "task": "classification",
    "stop": "all",
    "budget": {"default_ms": 200.0, "max_ms": 5000.0},
    "policy": {"name": "flips", "version": "1", "digest": "sha256:p"},
    "warnings": [],
    "state": "ready",
}
BODY = {
    "model": "toy",
    "version": "3",
    "task": "classification",
    "prediction": {"top": [{"label": "cat", "index": 1, "probability": 0.75}], "probabilities": [0.25, 0.75]},
    "receipt": {
        "views": [{"name": "plain", "weight": 1.0}, {"name": "hflip", "weight": 1.0}],
        "planned": 4, "started": 2, "dropped": 0, "merge": "mean_probabilities", "stop": "all",
        "stop_reason": "all_views", "confidence": 0.75, "budget_ms": 5000.0, "elapsed_ms": 3.0,
        "stages_ms": {"decode": 1.0}, "policy": ABOUT["policy"], "request_id": "r", "a_key_of_later": 1,
    },
}  # fmt: skip
Script = Sequence[Reply | ConnectionLost]


def answered(digest: str = DIGEST, **receipt: Any) -> Reply:
    return Reply(200, {**BODY, "receipt": {**BODY["receipt"], **receipt}}, digest, None)


def refused(status: int, code: str = "", retry_after: float | None = None) -> Reply:
    return Reply(status, {"error": f"sentence {status}", "code": code} if code else {}, "", retry_after)


class ScriptedClient:
    """Gives the replies in turn, each of which takes a second; `asked` are path, query and content of each post."""

    url = "http://server"

    def __init__(self, script: Iterator[Reply | ConnectionLost] | Script, about: Mapping[str, Any] = ABOUT) -> None:
        self._script = iter(script)
        self._about = about
        self.asked: list[tuple[str, Mapping[str, Any], bytes]] = []
        self.now = 0.0
        self.waits: list[float] = []

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Reply:
        return Reply(200, {"version": "9.9"} if path == "/v2" else self._about, "", None)

    def address(self, path: str, query: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        return path, query

    def post(self, address: tuple[str, Mapping[str, Any]], content: bytes, seconds: float) -> Reply:
        self.asked.append((*address, content))
        self.now += 1.0
        found = next(self._script)
        if isinstance(found, ConnectionLost):
            raise found
        return found

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += seconds
        return False

    def score(self, *images: bytes, give_up_after: float = 100.0, **options: Any) -> list[Scored]:
        plan = open_remote(self, "toy", options, 4, give_up_after)  # type: ignore[arg-type]
        scorer = RemoteScorer(plan, lambda: self.now, self.wait)
        return list(scorer.score(InputImage(str(number), _reader(image)) for number, image in enumerate(images)))


def _reader(image: bytes) -> Callable[[], bytes]:
    return lambda: image


def test_an_image_is_asked_once_with_all_views_and_the_longest_budget() -> None:
    client = ScriptedClient([answered()])
    (scored,) = client.score(b"image", top_k=2, include="views")
    query = {"top_k": 2, "include": "probabilities,views", "budget_ms": 5000.0, "priority": "batch", "min_views": "all"}
    assert client.asked == [("/v1/models/toy/predict", query, b"image")]
    assert isinstance(scored.outcome, Answer)
    assert scored.outcome.prediction == {"top": BODY["prediction"]["top"]}
    assert (scored.outcome.result.label, scored.outcome.result.probabilities.tolist()) == ("cat", [0.25, 0.75])
    assert "a_key_of_later" not in scored.outcome.receipt.to_dict()


def test_probabilities_are_kept_where_they_are_asked_for() -> None:
    (scored,) = ScriptedClient([answered()]).score(b"", include="probabilities")
    assert isinstance(scored.outcome, Answer)
    assert scored.outcome.prediction == BODY["prediction"]


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_obeyed(status: int) -> None:
    code = "overloaded" if status == 429 else "not_ready"
    client = ScriptedClient([refused(status, code, 7.0), refused(status, code, 0.25), answered()])
    assert isinstance(client.score(b"")[0].outcome, Answer)
    assert 7.0 <= client.waits[0] <= 7.0 * 1.25
    assert 0.25 <= client.waits[1] <= 0.25 * 1.25


LOST = [ConnectionLost("refused"), refused(502), refused(503), refused(504), refused(408, "too_slow")]


def test_a_connection_that_is_lost_is_tried_again_later_each_time() -> None:
    client = ScriptedClient([*LOST, *LOST, answered()])
    assert isinstance(client.score(b"")[0].outcome, Answer)
    least = [0.125, 0.25, 0.5, 1.0, 2.0] + [2.5] * 5
    assert all(low <= wait <= 2 * low for low, wait in zip(least, client.waits, strict=True))


@pytest.mark.parametrize("reply", [ConnectionLost("connection refused"), refused(429, "overloaded", 3.0)])
def test_a_run_ends_where_no_image_is_answered_for_too_long(reply: Reply | ConnectionLost) -> None:
    client = ScriptedClient(iter(lambda: reply, None))
    with pytest.raises(BackendUnavailable, match=r"http://server: answered no image for \d+ s .*what is done is kept"):
        client.score(b"", give_up_after=60)
    assert 60 < client.now < 80


def test_answers_between_failures_keep_a_run_going() -> None:
    script = [ConnectionLost("gone"), answered()] * 100
    client = ScriptedClient(script)
    assert len(client.score(*[b""] * 100, give_up_after=10)) == 100
    assert client.now > 100


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "invalid_input"), (413, "too_large"), (415, "unsupported_media")],
)
def test_what_is_wrong_with_an_image_is_its_row(status: int, code: str) -> None:
    client = ScriptedClient([refused(status, code), answered()])
    first, second = client.score(b"1", b"2")
    assert (first.outcome, isinstance(second.outcome, Answer)) == (f"sentence {status}", True)
    assert not client.waits


@pytest.mark.parametrize(("status", "code"), [(500, "internal"), (502, "backend_failed")])
def test_a_failure_that_may_pass_is_tried_some_times(status: int, code: str) -> None:
    client = ScriptedClient([refused(status, code)] * (TRIES - 1) + [answered()])
    assert isinstance(client.score(b"")[0].outcome, Answer)
    client = ScriptedClient([refused(status, code)] * TRIES)
    assert client.score(b"")[0].outcome == f"sentence {status}"


NO_ANSWER = [refused(504, "deadline_exceeded"), ConnectionLost("broken pipe")]


@pytest.mark.parametrize("reply", NO_ANSWER)
def test_where_no_image_is_answered_in_time_the_run_waits_and_ends(reply: Reply | ConnectionLost) -> None:
    client = ScriptedClient([reply] * 3 * TRIES + [answered()])
    assert isinstance(client.score(b"")[0].outcome, Answer)
    client = ScriptedClient(iter(lambda: reply, None))
    with pytest.raises(BackendUnavailable, match="answered no image"):
        client.score(b"", give_up_after=60)


@pytest.mark.parametrize(("reply", "sentence"), [(NO_ANSWER[0], "sentence 504"), (NO_ANSWER[1], "broken pipe")])
def test_where_others_are_answered_it_is_the_image(reply: Reply | ConnectionLost, sentence: str) -> None:
    """So that one image, at which a connection breaks each time, does not keep all others from being scored."""
    client = ScriptedClient([reply, answered()] * TRIES + [reply])

    def wait(seconds: float) -> bool:
        list(scorer.score([InputImage("other", lambda: b"light")]))
        return client.wait(seconds)

    scorer = RemoteScorer(open_remote(client, "toy", {}, 4), lambda: client.now, wait)  # type: ignore[arg-type]
    (scored,) = scorer.score([InputImage("heavy", lambda: b"heavy")])
    assert scored.outcome == sentence


def test_answers_before_the_last_failure_do_not_count_against_an_image() -> None:
    """Another image was answered once, then none: the server is gone, and this image is not to blame."""
    client = ScriptedClient([NO_ANSWER[1], answered(), *[NO_ANSWER[1]] * 2 * TRIES, answered()])

    def wait(seconds: float) -> bool:
        if not client.waits:
            list(scorer.score([InputImage("other", lambda: b"light")]))
        return client.wait(seconds)

    scorer = RemoteScorer(open_remote(client, "toy", {}, 4), lambda: client.now, wait)  # type: ignore[arg-type]
    (scored,) = scorer.score([InputImage("heavy", lambda: b"heavy")])
    assert isinstance(scored.outcome, Answer)


def test_quick_refusals_of_broken_images_leave_the_window_as_it_is() -> None:
    gate = Gate(8)
    for _ in range(100):
        with gate.request():
            pass
    assert gate.size == 1
    with gate.request() as passage:
        passage.is_answered = True
    assert gate.size == 2
    with gate.request() as passage:
        passage.is_refused = True
    assert gate.size == 1


def test_answers_that_take_longer_make_the_window_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, seconds = Gate(8), iter([0.0, 1.0, 1.0, 11.0, 11.0, 21.0])

    class Clock:
        monotonic = staticmethod(lambda: next(seconds))

    monkeypatch.setattr("tta_server.scoring.gate.time", Clock)
    sizes = []
    for _ in range(3):
        with gate.request() as passage:
            passage.is_answered = True
        sizes.append(gate.size)
    assert sizes == [2, 2, 1]


def test_an_answer_that_was_cut_short_is_asked_again_with_one_view_more() -> None:
    views = BODY["receipt"]["views"]
    script = [
        answered(stop_reason="capacity", views=views[:1]),
        answered(stop_reason="deadline", views=views[:2], dropped=1),
        answered(stop_reason="certain"),
    ]
    client = ScriptedClient(script)
    (scored,) = client.score(b"", stop="certain")
    assert [query.get("min_views") for _, query, _ in client.asked] == [None, 2, 4]
    assert isinstance(scored.outcome, Answer)
    assert scored.outcome.receipt.stop_reason == "certain"


def test_a_model_that_fails_on_a_view_again_and_again_is_a_row() -> None:
    client = ScriptedClient([answered(stop_reason="backend_failed")] * TRIES)
    assert client.score(b"")[0].outcome == "the model failed on a view of this image"


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (refused(401, "unauthenticated"), r"sentence 401 \(--key-file FILE, or TTA_KEY\); what is done is kept"),
        (refused(403, "disabled"), "sentence 403; what is done is kept"),
        (refused(404, "unknown_model"), "sentence 404"),
        (refused(307), "a redirection"),
        (refused(418), "is no tta-server: status 418"),
        (Reply(200, {"hello": 1}, DIGEST, None), "sent no answer of tta-server"),
        (answered(digest=""), r"model toy has changed"),
        (answered(digest="sha256:2"), r"model toy has changed .*'sha256:1', now 'sha256:2'.*give another --out"),
    ],
)
def test_what_concerns_every_image_ends_the_run(reply: Reply, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ScriptedClient([reply]).score(b"")


def test_an_image_that_can_not_be_read_is_not_sent() -> None:
    def vanished() -> bytes:
        raise FileNotFoundError(2, "No such file or directory")

    def refuses() -> bytes:
        raise InvalidInput("can't be read: Forbidden")

    client = ScriptedClient([])
    scorer = RemoteScorer(open_remote(client, "toy", {}, 4))  # type: ignore[arg-type]
    images = [InputImage("a", vanished), InputImage("b", refuses), InputImage("c", lambda: object())]  # type: ignore[arg-type, return-value]
    assert [scored.outcome for scored in scorer.score(images)] == [
        "can't be read: No such file or directory",
        "can't be read: Forbidden",
        "pixels are not sent to a server; give the bytes of a file",
    ]


def test_a_fingerprint_has_what_the_server_states_and_not_where_it_is() -> None:
    def of(about: Mapping[str, Any] = ABOUT, url: str = "http://a", **options: Any) -> Mapping[str, Any]:
        client = ScriptedClient([], about)
        client.url = url
        plan: RemotePlan = open_remote(client, "toy", options, 4)  # type: ignore[arg-type]
        return plan.fingerprint("jsonl", Limits())

    assert of(merge="vote", top_k=5) == of(url="http://b", top_k=5, merge="vote")
    assert of()["server"] == "9.9"
    assert of() != of(top_k=5)
    assert of() != of(masks="rle")
    plan: RemotePlan = open_remote(ScriptedClient([]), "toy", {}, 4)  # type: ignore[arg-type]
    assert (
        len({str(plan.fingerprint(*each)) for each in (("csv", Limits()), ("jsonl", Limits()), ("csv", Limits(1000)))})
        == 3
    )
    assert of() != of({**ABOUT, "digest": "sha256:2"})
    assert of() != of({**ABOUT, "policy": {**ABOUT["policy"], "digest": "sha256:q"}})


@pytest.mark.parametrize(
    ("about", "sentence"),
    [
        ({"state": "failed", "reason": "no file"}, "model toy is not loaded: no file"),
        ({**ABOUT, "digest": ""}, "states no digest of model toy"),
    ],
)
def test_a_model_that_can_not_be_used_is_said_at_the_start(about: Mapping[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ScriptedClient([], about).score(b"")


@pytest.mark.parametrize(
    ("url", "key", "sentence"),
    [
        ("server:8000", None, "takes the address of a tta-server like http://host:8000"),
        ("ftp://server", None, "takes the address"),
        ("http://[::1", None, "takes the address"),
        ("http://server:port", None, "takes the address"),
        ("http://server:99999", None, "takes the address"),
        ("http://server/?a=1", None, "without a query"),
        ("http://me:secret@server", None, "takes no user and password"),
        ("http://server", "two words", "one word of printable ASCII"),
        ("http://server", "s\u00e9cret", "one word of printable ASCII"),
    ],
)
def test_an_address_or_key_that_can_not_be_used_is_not_shown(url: str, key: str | None, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as raised:
        ServerClient(url, key)
    assert "cret" not in str(raised.value)


def test_all_threads_end_with_the_first_error() -> None:
    """One that waits for a server that is busy ends as soon as another has found that the model has changed."""
    client = ScriptedClient([refused(429, "overloaded", 1.0), answered(digest="sha256:2")])
    plan = open_remote(client, "toy", {}, 4)  # type: ignore[arg-type]

    def wait(seconds: float) -> bool:
        with pytest.raises(ConfigError, match="has changed during the run"):
            list(scorer.score([InputImage("b", lambda: b"b")]))
        return True

    scorer = RemoteScorer(plan, lambda: client.now, wait)
    with pytest.raises(ConfigError, match="has changed during the run"):
        list(scorer.score([InputImage("a", lambda: b"a")]))


def test_after_the_end_no_thread_sends_another_request() -> None:
    """Those that wait at the gate would each find out by themselves that the server hangs, one after the other."""
    under_way, more = threading.Event(), threading.Event()

    class HangingClient(ScriptedClient):
        def post(self, address: tuple[str, Mapping[str, Any]], content: bytes, seconds: float) -> Reply:
            under_way.set()
            more.wait(PATIENCE)
            return super().post(address, content, seconds)

    client = HangingClient([answered(digest="sha256:2")])
    plan = open_remote(client, "toy", {}, 1)  # type: ignore[arg-type]
    scorer = RemoteScorer(plan)

    def score(number: int) -> str:
        with pytest.raises(ConfigError) as raised:
            list(scorer.score([InputImage(str(number), lambda: b"")]))
        return str(raised.value)

    with ThreadPoolExecutor(8) as pool:
        works = [pool.submit(score, number) for number in range(8)]
        under_way.wait(PATIENCE)
        more.set()
        assert {"has changed during the run" in work.result(PATIENCE) for work in works} == {True}
    assert len(client.asked) == 1


def test_a_proxy_before_the_server_is_understood() -> None:
    """Its statuses have no code: 413 is the image's, and 429 is obeyed."""
    client = ScriptedClient([Reply(429, {}, "", 2.0), Reply(413, {}, "", None), answered()])
    first, second = client.score(b"large", b"small")
    assert first.outcome == "the server answered with status 413"
    assert isinstance(second.outcome, Answer)
    (wait,) = client.waits
    assert 2.0 <= wait <= 2.5


def test_the_order_of_what_is_included_is_no_other_run() -> None:
    def of(include: str) -> Mapping[str, Any]:
        plan: RemotePlan = open_remote(ScriptedClient([]), "toy", {"include": include}, 4)  # type: ignore[arg-type]
        return plan.fingerprint("jsonl", Limits())

    assert of("views,agreement") == of("agreement,views")
    assert of("views") != of("agreement,views")


def test_a_name_with_signs_of_a_url_is_one_name() -> None:
    asked = []

    class NotingClient(ScriptedClient):
        def get(self, path: str, query: Mapping[str, Any] | None = None) -> Reply:
            asked.append(path)
            return super().get(path, query)

    open_remote(NotingClient([]), "a/b?c#d", {}, 4)  # type: ignore[arg-type]
    assert asked[0] == "/v1/models/a%2Fb%3Fc%23d"


@pytest.mark.parametrize("url", ["http://a..b", f"http://{'x' * 70}.com"])
def test_a_host_that_has_no_name_can_not_be_reached(url: str) -> None:
    with pytest.raises(ConfigError, match="can't be reached"):
        open_remote(ServerClient(url), "toy", {}, 4)
