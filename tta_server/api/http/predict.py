"""`/v1/models/{name}/predict` and `/v1/models/{name}/quote`."""

import hashlib
import time
from dataclasses import replace
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tta_server import __version__
from tta_server.api.http.errors import ErrorHandlers
from tta_server.api.http.form import read_upload
from tta_server.api.http.query import read_query, read_quote
from tta_server.api.http.sse import stream_answers
from tta_server.api.http_request import request_info, wait_for_disconnect
from tta_server.api.progress import Progress
from tta_server.api.requests import PredictCommand, RequestHandler
from tta_server.application import Application
from tta_server.errors import InvalidInput
from tta_server.repository.model import Model
from tta_server.serving.answer import Answer
from tta_server.serving.ticket import Ticket
from tta_server.tasks import ResponseFormat
from tta_server.tasks.render.rendering import DRAWING

PREDICT = "/v1/models/{name}/predict"
QUOTE = "/v1/models/{name}/quote"


class PredictRoutes:
    """Starlette routes without FastAPI's parsing, which took a quarter of the time of a predict request's handling."""

    def __init__(self, application: Application, handler: RequestHandler, errors: ErrorHandlers) -> None:
        self._application = application
        self._predictor = application.predictor
        self._handler = handler
        self._errors = errors

    def routes(self) -> list[Route]:
        return [Route(PREDICT, self.predict, methods=["POST"]), Route(QUOTE, self.quote, methods=["GET"])]

    async def predict(self, request: Request) -> Response:
        """JSON, `image/png` or `text/event-stream`, as the Accept header says."""
        self._application.check_admitting()
        model = self._predictor.model(request.path_params["name"])
        accept = request.headers.get("accept", "")
        wants_picture = "image/png" in accept
        progress = Progress() if "text/event-stream" in accept else None
        ticket = await self._submit(request, model, wants_picture, progress)
        if progress is not None:
            cancel = partial(self._predictor.cancel, ticket)
            record_answer = partial(self._handler.record_answer, trace=request.state.trace)
            return await stream_answers(request, ticket, progress, cancel, record_answer, self._errors.record)
        (answer,) = await self._handler.wait_for_answers([ticket], wait_for_disconnect(request))
        response = _picture(answer) if wants_picture else JSONResponse(answer.to_dict(), headers=_timing(answer))
        response.headers["TTA-Model-Digest"] = answers_digest(ticket.model)
        self._handler.record_sent([answer], request.state.trace)
        return response

    async def _submit(self, request: Request, model: Model, wants_picture: bool, progress: Progress | None) -> Ticket:
        """The ticket of the request's image; only the job holds the image then."""
        options = read_query(request)
        if wants_picture:
            _check_picture(model)
        with self._handler.byte_budget.reserve() as reservation:
            upload = await read_upload(request, self._predictor.limits.max_bytes, reservation)
            received = time.monotonic()
            if upload.options:
                options = read_query(request, upload.options)
            if wants_picture and progress is None:
                options = replace(options, format=ResponseFormat.PNG)
            command = PredictCommand(model, [upload.image], options)
            (ticket,) = await self._handler.submit(command, request_info(request), received, progress)
        return ticket

    async def quote(self, request: Request) -> Response:
        self._application.check_admitting()
        name = request.path_params["name"]
        self._predictor.model(name)
        size, options = read_quote(request)
        return JSONResponse(await self._handler.quote(name, size, options, request.state.request_id))


def answers_digest(model: Model) -> str:
    """Of the model and this version of tta-server: what the answers to equal requests depend on."""
    return f"sha256:{hashlib.sha256(f'{model.digest} {__version__}'.encode()).hexdigest()}"


def _check_picture(model: Model) -> None:
    """Raises InvalidInput where the model's task has no picture."""
    if not model.task.has_picture:
        drawing = " and include=drawing" if DRAWING in model.task.includes else ""
        raise InvalidInput(f"{model.task.name} has no image/png answer; accept application/json{drawing}")


def _picture(answer: Answer) -> Response:
    receipt = answer.receipt
    headers = {"TTA-Views": str(len(receipt.views)), "TTA-Stop-Reason": str(receipt.stop_reason)}
    headers |= {"TTA-Cached": "true"} if receipt.cached else {}
    return Response(answer.picture, media_type="image/png", headers=_timing(answer) | headers)


def _timing(answer: Answer) -> dict[str, str]:
    """The `Server-Timing` header."""
    receipt = answer.receipt
    stages = ", ".join(f"{stage};dur={ms}" for stage, ms in receipt.stages_ms.items())
    return {"Server-Timing": f"{stages}, total;dur={receipt.elapsed_ms}"}
