"""A backend whose model runs in a Triton server."""

import math
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace

import grpc

from tta_server.backends.base import Outputs, Tensor
from tta_server.backends.cancel import Abort
from tta_server.backends.triton import Target
from tta_server.backends.triton.discovery import Description, describe
from tta_server.backends.triton.servers import LOST, RemoteError, Servers
from tta_server.backends.triton.tensors import read_response, write_request
from tta_server.errors import BackendFailed, BackendUnavailable, ConfigError, DeadlineExceeded, TTAError

PATIENCE = 60.0
"""Seconds that a batch may take that no request waits for: a model's first one may compile it."""

LATE = "the budget ran out before the server that runs this model answered"
Failure = tuple[type[TTAError], str]
FAILED: Failure = (BackendFailed, "the model failed on this image")
UNAVAILABLE: Failure = (BackendUnavailable, "the server that runs this model is not ready; it is probed every second")
FAILURES: Mapping[grpc.StatusCode, Failure] = {
    **dict.fromkeys(LOST, UNAVAILABLE),
    grpc.StatusCode.DEADLINE_EXCEEDED: (DeadlineExceeded, LATE),
}
"""What a status of the server means for a batch; any other is FAILED."""


class TritonBackend:
    """Sends each batch as one request and waits for it on the calling thread; an abort cancels the call.

    With several servers each batch goes to the next one that is ready, and to others if that one is not there any more.
    """

    def __init__(self, target: Target) -> None:
        """Asks the servers for the model.

        Raises BackendUnavailable if none is ready, ConfigError if the model is missing or takes no images, or if two
        servers differ.
        """
        self.device, self.permits = target.device, target.permits
        self.where = f"model {target.model} of {self.device}, up to {self.permits} batches at once"
        self._called = self._model = (target.model, target.version)
        self._servers = Servers(target)
        try:
            description = self._discover(target)
        except BaseException:
            self._servers.close()
            raise
        self.signature = description.signature
        self.ladder: Sequence[int] = description.ladder
        self.version = description.version
        self._has_batch_axis = description.has_batch_axis
        self.ensemble = description.ensemble
        if self.ensemble is not None:
            self._model = (self.ensemble.model, self.ensemble.version)

    def _discover(self, target: Target) -> Description:
        found = self._servers.submit(self._servers.ask_each(lambda server: describe(server, target))).result()
        failures = [each for each in found if isinstance(each, BaseException)]
        wrong = next((each for each in failures if not isinstance(each, BackendUnavailable)), None)
        described = [each for each in found if isinstance(each, Description)]
        if wrong or not described:
            raise wrong or failures[0]
        if any(replace(each, version="") != replace(described[0], version="") for each in described):
            raise ConfigError(
                f"backend.url: the servers {', '.join(target.urls)} serve different models {target.model}"
            )
        return described[0]

    def infer(self, batch: Tensor, abort: Abort | None = None) -> Outputs:
        """Run a batch; see `Backend.infer`. The call ends at `abort.deadline`.

        Raises BackendUnavailable if no server serves the model now, DeadlineExceeded.
        """
        image = batch if self._has_batch_axis else batch[0]
        outputs = self._call(self._model, {self.signature.input: image}, self.signature.outputs, abort)
        return outputs if self._has_batch_axis else {name: values[None] for name, values in outputs.items()}

    def infer_ensemble(
        self, inputs: Mapping[str, Tensor], outputs: Collection[str], abort: Abort | None = None
    ) -> Outputs:
        """Run the ensemble around the model, as `infer` does."""
        return self._call(self._called, inputs, outputs, abort)

    def _call(
        self, model: tuple[str, str], inputs: Mapping[str, Tensor], names: Collection[str], abort: Abort | None
    ) -> Outputs:
        now = time.monotonic()
        due = abort.deadline if abort is not None else math.inf
        deadline = due if due < math.inf else now + PATIENCE
        if deadline <= now:
            raise DeadlineExceeded(LATE)
        request = write_request(model, inputs, names, deadline - now)
        call = self._servers.submit(self._servers.infer(request, deadline, abort.headers if abort is not None else ()))
        if abort is not None:
            abort.on_request(call.cancel)
        try:
            return read_response(call.result(), names)
        except CancelledError:
            raise BackendFailed(FAILED[1]) from None
        except RemoteError as error:
            kind, sentence = FAILURES.get(error.status, FAILED)
            if kind is DeadlineExceeded and due == math.inf:
                kind, sentence = UNAVAILABLE
            raise kind(sentence) from error
        except ValueError as error:
            raise BackendFailed(FAILED[1]) from error

    def close(self) -> None:
        """End all calls and the connections."""
        self._servers.close()
