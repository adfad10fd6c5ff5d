"""Scores images with a model of a running tta-server, as `priority=batch`."""

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tta_server.errors import BackendUnavailable, ConfigError, TTAError, shown
from tta_server.imaging.decoding import Limits
from tta_server.imaging.inputs import unreadable
from tta_server.scheduling.stopping import StopReason
from tta_server.scoring.batches import InputImage, Scored
from tta_server.scoring.gate import Gate
from tta_server.scoring.manifest import versions
from tta_server.scoring.schema import Schema
from tta_server.scoring.served_answers import PROBABILITIES, WITH_PROBABILITIES, is_cut, read_answer, views_done
from tta_server.scoring.server_client import PASSING_CODES, ConnectionLost, Reply, ServerClient
from tta_server.serving.answer import Answer

GIVE_UP_SECONDS = 300.0
FIRST_WAIT, LONGEST_WAIT = 0.25, 5.0
"""Seconds before a lost connection is tried again: doubled each time, of which a random half to all is waited."""
TRIES = 5
"""Of a failure that may pass, before it is the image's."""
Clock = Callable[[], float]
Wait = Callable[[float], bool]
"""Waits that many seconds; true if the run has ended meanwhile."""
LIBRARIES = ("tta-server", "pyarrow")
ON_FROM_THERE = "what is done is kept, and the same command goes on from there"


@dataclass(frozen=True, slots=True)
class RemotePlan:
    """A server's model and the options of a run.

    `about` is what the server states of the model, `server` its version. At most `most` requests are under way at once;
    the run ends where no image was answered for `give_up_after` seconds. `masks` says how rows have masks: png, or rle.
    `dimensions` is the length of embeddings, None where the server states none.
    """

    client: ServerClient
    about: Mapping[str, Any]
    server: str
    options: Mapping[str, Any]
    most: int
    give_up_after: float
    masks: str = "png"
    dimensions: int | None = None

    @property
    def task(self) -> str:
        return str(self.about["task"])

    @property
    def schema(self) -> Schema:
        return Schema(self.task, self.about["name"], tuple(self.about["labels"]), self.masks, self.dimensions)

    @property
    def rle_of(self) -> Sequence[str]:
        """The labels whose masks are stored as RLE; a server sends PNG."""
        return self.schema.labels if self.masks == "rle" else ()

    @property
    def stop(self) -> Any:
        return self.options.get("stop", self.about["stop"])

    @property
    def query(self) -> Mapping[str, Any]:
        """Of a request. Where no rule may stop before the last view, all views are mandatory, so that none is cut."""
        include = {part for part in str(self.options.get("include", "")).split(",") if part}
        if self.task in WITH_PROBABILITIES:
            include.add(PROBABILITIES)
        query = {**self.options, "budget_ms": self.about["budget"]["max_ms"], "priority": "batch"}
        query |= {"include": ",".join(sorted(include))} if include else {}
        return query | ({"min_views": "all"} if self.stop == "all" else {})

    def scorer(self) -> "RemoteScorer":
        return RemoteScorer(self)

    def fingerprint(self, format_name: str, limits: Limits) -> Mapping[str, Any]:
        """Of everything but the images, as `manifest.fingerprint` is of a local run; the URL is not part of it."""
        return {
            "server": self.server,
            "model": {key: self.about[key] for key in ("name", "version", "digest")},
            "policy": self.about["policy"]["digest"],
            "options": dict(sorted(self.options.items())),
            "limits": {"max_bytes": limits.max_bytes},
            "format": format_name,
            "masks": self.masks,
            "versions": versions(LIBRARIES),
        }


def open_remote(
    client: ServerClient, model: str, options: Mapping[str, Any], most: int, give_up_after: float = GIVE_UP_SECONDS
) -> RemotePlan:
    """Ask what the server states of the model, and whether it takes the options. Raises ConfigError."""
    path = f"/v1/models/{quote(model, safe='')}"
    about = _stated(client, path)
    if about.get("state") == "failed":
        raise ConfigError(f"{client.url}: model {model} is not loaded: {about.get('reason')}")
    if not about.get("digest"):
        raise ConfigError(f"{client.url}: states no digest of model {model}; it needs tta-server of this version")
    version = str(_stated(client, "/v2").get("version"))
    options = dict(options)
    masks = options.pop("masks", "png")
    if "include" in options:
        options["include"] = ",".join(sorted(set(options["include"].split(","))))
    dimensions = _dimensions(client, about["name"]) if about["task"] == "embedding" else None
    plan = RemotePlan(client, about, version, options, most, give_up_after, masks, dimensions)
    _stated(client, f"{path}/quote", plan.query)
    return plan


def _dimensions(client: ServerClient, model: str) -> int | None:
    """The length of a model's embeddings, None where its file leaves it open."""
    outputs = _stated(client, f"/v2/models/{quote(model, safe='')}").get("outputs", [])
    lengths = [output["shape"][-1] for output in outputs if output["name"] == "EMBEDDING"]
    return next((length for length in lengths if length > 0), None)


def _stated(client: ServerClient, path: str, query: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    try:
        reply = client.get(path, query)
    except ConnectionLost as error:
        raise ConfigError(f"{client.url}: can't be reached: {error}") from None
    if reply.status != 200 or not reply.body:
        raise ConfigError(f"{client.url}: {_refusal(reply)}")
    return reply.body


def _refusal(reply: Reply) -> str:
    if reply.status == 401:
        return f"{reply.sentence} (--key-file FILE, or TTA_KEY)"
    if 300 <= reply.status < 400:
        return f"answers with a redirection (status {reply.status}); give the address that it leads to"
    return reply.sentence if reply.body.get("error") else f"is no tta-server: status {reply.status}"


class RemoteScorer:
    """Scores images, each by a request; as many threads as may be under way use it."""

    def __init__(self, plan: RemotePlan, clock: Clock = time.monotonic, wait: Wait | None = None) -> None:
        self.plan = plan
        self._clock = clock
        self._gate = Gate(plan.most)
        self._last_answer = clock()
        self._ended = threading.Event()
        self._failure: TTAError | None = None
        self._wait = wait or self._ended.wait
        self._address = plan.client.address(self._path, plan.query)
        self._seconds = plan.about["budget"]["max_ms"] / 1e3
        self._includes_probabilities = PROBABILITIES in str(plan.options.get("include", "")).split(",")

    @property
    def _path(self) -> str:
        return f"/v1/models/{quote(self.plan.about['name'], safe='')}/predict"

    def score(self, images: Iterable[InputImage]) -> Iterator[Scored]:
        """Each image's outcome, in their order. Raises BackendUnavailable where the server is gone for too long.

        Raises ConfigError where it has another model now, or wants another key.
        """
        for image in images:
            try:
                yield Scored(image.id, self._score(image))
            except (BackendUnavailable, ConfigError) as error:
                raise self._end(error) from None

    def _end(self, error: TTAError) -> TTAError:
        """End the waits of all threads; the first error of any of them."""
        self._failure = self._failure or error
        self._ended.set()
        return self._failure

    def _score(self, image: InputImage) -> Answer | str:
        try:
            content = image.read()
        except TTAError as error:
            return str(error)
        except OSError as error:
            return unreadable(error)
        if not isinstance(content, bytes):
            return "pixels are not sent to a server; give the bytes of a file"
        return self._answer(content)

    def _answer(self, content: bytes) -> Answer | str:
        """Ask until the answer has every view that it would have without a deadline.

        A lost connection or a missed deadline is the image's own only where others were answered meanwhile.
        """
        address, failures, waits, sentence = self._address, 0, 0, ""
        last_answer = self._last_answer
        while failures < TRIES:
            reply = self._ask(address, content)
            if reply.status == 200:
                answer = self._read(reply)
                if not is_cut(answer):
                    return answer
                # its stop rule did not stop by then, so one more mandatory view changes nothing else
                least = {"min_views": min(answer.receipt.planned, views_done(answer) + 1)}
                address = self.plan.client.address(self._path, {**self.plan.query, **least})
                if answer.receipt.stop_reason != StopReason.BACKEND_FAILED:
                    continue
                sentence = "the model failed on a view of this image"
            elif reply.is_of_image:
                return reply.sentence
            else:
                sentence = self._passing(reply)
            waits += 1
            failures += not reply.is_late or self._last_answer != last_answer
            last_answer = self._last_answer
            if failures < TRIES:
                self._pause(_backoff(waits), sentence)
        return sentence

    def _passing(self, reply: Reply) -> str:
        """The sentence of a failure that may pass. Raises ConfigError for any other."""
        if reply.is_late or reply.code in PASSING_CODES:
            return reply.sentence
        raise ConfigError(f"{self.plan.client.url}: {_refusal(reply)}; {ON_FROM_THERE}")

    def _read(self, reply: Reply) -> Answer:
        """Raises ConfigError for the answer of another model, or of something that is no tta-server."""
        url, known = self.plan.client.url, self.plan.about["digest"]
        if reply.digest != known:
            raise ConfigError(
                f"{url}: model {self.plan.about['name']} has changed during the run (digest {shown(known)}, now "
                f"{shown(reply.digest)}); results of both do not belong together: give another --out"
            )
        try:
            answer = read_answer(reply.body, self._includes_probabilities, self.plan.rle_of)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise ConfigError(f"{url}: sent no answer of tta-server; {ON_FROM_THERE}") from None
        self._last_answer = self._clock()
        return answer

    def _ask(self, address: Any, content: bytes) -> Reply:
        """The reply to a request that the server did not refuse; after a refusal wait as it says, and ask again."""
        refusals = 0
        while True:
            with self._gate.request() as passage:
                if self._failure:
                    raise self._failure
                try:
                    reply = self.plan.client.post(address, content, self._seconds)
                except ConnectionLost as error:
                    reply = Reply(0, {"error": str(error)}, "", None)
                passage.is_refused, passage.is_answered = reply.is_busy or reply.is_late, reply.status == 200
            if not reply.is_busy:
                return reply
            refusals, asked = refusals + 1, reply.retry_after
            self._pause(_backoff(refusals) if asked is None else asked * random.uniform(1, 1.25), reply.sentence)

    def _pause(self, seconds: float, why: str) -> None:
        """Raises BackendUnavailable where no image was answered for too long."""
        waited = self._clock() - self._last_answer
        if waited > self.plan.give_up_after or self._wait(min(seconds, self.plan.give_up_after)):
            raise BackendUnavailable(
                f"{self.plan.client.url}: answered no image for {waited:.0f} s ({why}); {ON_FROM_THERE}"
            )


def _backoff(times: int) -> float:
    return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(times - 1, 10)) * random.uniform(0.5, 1)
