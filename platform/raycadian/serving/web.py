"""The endpoint as a web application: paths, key, limits, errors. FastAPI alone; who computes is handed in."""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from raycadian.modalities.biosignals.request import MAX_MESSAGE, BiosignalRequest, StreamSamples, StreamStart
from raycadian.modalities.request import Request as PersonData
from raycadian.modalities.request import RequestSchema
from raycadian.personal.store import Forbidden, digest
from raycadian.serving.keys import KEY_FILE, KEY_VARIABLE
from raycadian.serving.limits import ANSWER_S, FIRST_MESSAGE_S, IDLE_S, SMALL_BYTES, Limits, client_of
from raycadian.serving.openapi import PERSON_KEY, REQUESTS, complete_description
from raycadian.serving.predictor import Answer
from raycadian.serving.schemas import ModelResponse, Problem, Refused, explain
from raycadian.serving.stream import SignalStream

_JSON = "application/json"


class Service(Protocol):
    """Who computes the answers."""

    def describe(self) -> dict[str, Any] | None:
        """The model as in ModelResponse; None while none is loaded."""

    async def answer(self, request: PersonData, key: str | None = None) -> Answer | ValueError:
        """What the model says, or why it can't; with a `key` by the adapter of the person whose it is: Forbidden where
        it isn't theirs, or there is none."""

    def example(self) -> dict[str, Any] | None:
        """A JSON body that the model answers on its path; None while none is loaded."""

    def open_stream(self, channels: dict[str, tuple[float, str]]) -> SignalStream:
        """A stream of channels (rate in Hz, unit). Raises ValueError where the model can't follow one."""


def create_app(service: Service, key_sha256: str, limits: Limits | None = None) -> FastAPI:
    """The application. `key_sha256`: hex digest of the API key, which is itself never kept."""
    # no documentation pages: their scripts come from a third party; /openapi.json is for any tool
    app = FastAPI(
        title="Raycadian forecasts", version="1", docs_url=None, redoc_url=None, redirect_slashes=False,
        description="Glucose forecasts from recent readings, estimates from biosignals. "
        "Research only: not a medical device.",
    )  # fmt: skip
    app.router.redirect_slashes = False  # a redirect would go to whatever host the request names
    _add_open_paths(app, service)
    _add_guarded_paths(app, service, key_sha256, limits or Limits())
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unforeseen)
    complete_description(app, service)
    return app


def _add_open_paths(app: FastAPI, service: Service) -> None:
    @app.get("/healthz")
    async def alive() -> dict[str, str]:
        """The process answers; /readyz says whether it has a model."""
        return {"status": "alive"}

    @app.get("/readyz", responses={503: {"model": Problem}})
    async def ready() -> dict[str, str]:
        """A model is loaded."""
        return {"status": "ready", "model": _loaded(service)["model"]}

    for path, answer in (("/healthz", alive), ("/readyz", ready)):
        app.router.routes.append(Route(path, _as_head(answer), methods=["HEAD"]))


def _as_head(answer: Callable[[], Awaitable[dict[str, str]]]) -> Callable[[Request], Awaitable[Response]]:
    """What monitors ask that want no body."""

    async def head(request: Request) -> Response:
        return JSONResponse(await answer())

    return head


def _add_guarded_paths(app: FastAPI, service: Service, key_sha256: str, limits: Limits) -> None:
    codes = (401, 403, 408, 413, 415, 422, 429, 503)
    problems: dict[int | str, dict[str, Any]] = {code: {"model": Problem} for code in codes}
    for schema in REQUESTS:
        _add_post(app, service, key_sha256, schema, problems, limits)
    _add_stream(app, service, key_sha256, limits)

    @app.get("/v1/model", response_model=ModelResponse, responses={code: problems[code] for code in (401, 503)})
    async def model(request: Request) -> dict[str, Any]:
        """What is served, and how good it is."""
        _require_key(request, key_sha256)
        return _loaded(service)


def _add_post(
    app: FastAPI, service: Service, key_sha256: str, schema: type[RequestSchema],
    problems: dict[int | str, dict[str, Any]], limits: Limits,
) -> None:  # fmt: skip
    """Key, limits and validation are called here, not declared as dependencies: the limit comes before parsing, and the
    key before both."""

    async def post(request: Request) -> Response:
        _require_key(request, key_sha256)
        key = _person_key(request)
        body = await limits.body(request, schema.most_bytes, schema.enough)
        _loaded(service)
        async with limits.work(len(body)):
            data = await _read(schema, body)
            return _answered(await _in_time(service.answer(data, key)), schema.refusal)

    example = {"content": {_JSON: {"example": schema.answer_example}}, "model": schema.answer}
    app.add_api_route(
        schema.path, post, methods=["POST"], responses=problems | {200: example}, response_class=Response,
        name=schema.path.rpartition("/")[2], description=schema.summary,
    )  # fmt: skip
    # the same function before FastAPI's own way to it, which describes it but takes as long as reading the request
    app.router.routes.insert(0, Route(schema.path, post, methods=["POST"]))


def _add_stream(app: FastAPI, service: Service, key_sha256: str, limits: Limits) -> None:
    @app.websocket(f"{BiosignalRequest.path}/stream")
    async def stream(socket: WebSocket) -> None:
        """Samples as they come; every message is answered with the windows that it completes. docs/howto/serve.md"""
        try:
            with limits.sockets.taken(client_of(socket)):
                await socket.accept()
                await _guarded_conversation(socket, service, key_sha256)
        except Refused as error:
            await socket.send_denial_response(await _refused(None, error))


async def _guarded_conversation(socket: WebSocket, service: Service, key_sha256: str) -> None:
    try:
        _require_key(socket, key_sha256)
        await _converse(socket, service)
    except WebSocketDisconnect:
        return
    except Refused as error:
        await _end(socket, error.error, error.detail)
    except ValueError as error:
        await _end(socket, "cannot_estimate", str(error))


async def _converse(socket: WebSocket, service: Service) -> None:
    """The messages of one stream, until whoever sends them leaves. Raises Refused, ValueError."""
    model = _loaded(service)["model"]
    stream = service.open_stream(_valid(StreamStart, await _message(socket, FIRST_MESSAGE_S)).rates())
    windows: list[dict[str, Any]] = []
    while True:
        await _send(socket, {"model": model, "windows": windows})
        message = await _message(socket, IDLE_S)
        windows = await asyncio.to_thread(lambda text=message: stream.push(_valid(StreamSamples, text).samples()))


def _answered(answer: Answer | ValueError, refusal: str) -> Response:
    if isinstance(answer, Forbidden):
        raise Refused(403, "forbidden", str(answer))
    if isinstance(answer, ValueError):
        raise Refused(422, refusal, str(answer))
    return Response(to_json(answer.as_dict()), media_type=_JSON)


async def _message(socket: WebSocket, seconds: float) -> bytes:
    """The next text, waited for so long. Raises Refused."""
    try:
        message = await asyncio.wait_for(socket.receive(), seconds)
    except TimeoutError:
        raise Refused(408, "idle", f"no message came for {seconds:g} s; open a stream when samples come") from None
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    text = message.get("text")
    if text is None:
        raise Refused(422, "invalid_request", "a message is text, JSON; found a binary one")
    if len(text) > MAX_MESSAGE:
        raise Refused(413, "too_large", f"a message may have {MAX_MESSAGE:,} characters, found {len(text):,}")
    return text.encode(errors="replace")


async def _send(socket: WebSocket, content: dict[str, Any]) -> None:
    """Raises WebSocketDisconnect where nobody takes it."""
    try:
        await asyncio.wait_for(socket.send_text(json.dumps(content)), IDLE_S)
    except TimeoutError:
        raise WebSocketDisconnect(1006) from None


async def _end(socket: WebSocket, error: str, detail: str) -> None:
    """Say why, then close (1008: policy violation)."""
    with suppress(WebSocketDisconnect):
        await _send(socket, {"error": error, "detail": detail})
        await socket.close(1008)


def _loaded(service: Service) -> dict[str, Any]:
    model = service.describe()
    if model is None:
        raise Refused(503, "not_ready", "no model is loaded yet; ask again in a few seconds", {"Retry-After": "5"})
    return model


async def _in_time(answer: Awaitable[Answer | ValueError]) -> Answer | ValueError:
    try:
        async with asyncio.timeout(ANSWER_S):
            return await answer
    except TimeoutError:
        raise Refused(503, "timeout", f"no answer within {ANSWER_S:g} s; send less", {"Retry-After": "5"}) from None


async def _read(schema: type[RequestSchema], body: bytes) -> PersonData:
    """Small bodies here, since a thread would take as long as reading them."""
    return _data(schema, body) if len(body) <= SMALL_BYTES else await asyncio.to_thread(_data, schema, body)


def _data(schema: type[RequestSchema], body: bytes) -> PersonData:
    try:
        return _valid(schema, body).data()
    except ValueError as error:
        raise Refused(422, "invalid_request", str(error)) from None


def _valid(schema: type[Any], body: bytes) -> Any:
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        raise Refused(422, "invalid_request", explain(error)) from None


# --- the key --------------------------------------------------------------------------------------------------------


def _require_key(request: Request | WebSocket, key_sha256: str) -> None:
    """Let nobody in without the key; compared in constant time."""
    sent = request.headers.getlist("authorization")
    scheme, _, key = (sent[0] if len(sent) == 1 else "").partition(" ")
    if scheme.lower() != "bearer" or not secrets.compare_digest(digest(key.strip()), key_sha256):
        detail = f"send one `Authorization: Bearer KEY`; the server's KEY is in {KEY_VARIABLE} or {KEY_FILE}"
        raise Refused(401, "unauthorized", detail, {"WWW-Authenticate": "Bearer"})


def _person_key(request: Request) -> str | None:
    """The person's key, where one is sent."""
    sent = request.headers.getlist(PERSON_KEY)
    if len(sent) > 1:
        raise Refused(422, "invalid_request", f"send one {PERSON_KEY}, found {len(sent)}")
    return sent[0] if sent else None


# --- errors -----------------------------------------------------------------------------------------------------------


async def _refused(request: Any, error: Any) -> Response:
    return _problem(error.status, error.error, error.detail, error.headers)


async def _http_error(request: Request, error: Any) -> Response:
    """Unknown paths and methods, in our words."""
    name = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    return _problem(error.status_code, name, f"{request.method} {request.url.path}: {error.detail}", error.headers)


async def _gone(request: Request, error: Any) -> Response:
    return _problem(400, "gone", "the client left before its request was whole")  # read by nobody


async def _unforeseen(request: Request, error: Exception) -> Response:
    return _problem(500, "internal", "the server failed; its log says why")  # nothing of the request


def _problem(status: int, error: str, detail: str, headers: Any = None) -> Response:
    return JSONResponse({"error": error, "detail": detail}, status, headers)
