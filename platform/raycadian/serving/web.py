"""The endpoint as a web application: paths, key, limits, errors. FastAPI alone; who computes is handed in."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.routing import Route

from raycadian.modalities import MODALITIES
from raycadian.modalities.biosignals.request import MAX_MESSAGE, BiosignalRequest, StreamSamples, StreamStart
from raycadian.modalities.request import Request as PersonData
from raycadian.modalities.request import RequestSchema
from raycadian.personal.store import Forbidden, digest
from raycadian.serving.keys import KEY_FILE, KEY_VARIABLE
from raycadian.serving.predictor import Answer
from raycadian.serving.schemas import ModelResponse, Problem, explain
from raycadian.serving.stream import SignalStream

REQUESTS: tuple[type[RequestSchema], ...] = tuple(modality.request() for modality in MODALITIES.values())
"""What may be sent: a POST path each."""
PERSON_KEY = "x-raycadian-person-key"  # header: asks for the adapter of the body's `subject`
_JSON = "application/json"


class Service(Protocol):
    """Who computes the answers."""

    def describe(self) -> dict[str, Any] | None:
        """The model as in ModelResponse; None while none is loaded."""

    async def answer(self, request: PersonData, key: str | None = None) -> Answer | ValueError:
        """What the model says, or why it can't; with a `key` by the adapter of the person whose it is: Forbidden where
        it isn't theirs, or there is none."""

    def open_stream(self, channels: dict[str, tuple[float, str]]) -> SignalStream:
        """A stream of channels (rate in Hz, unit). Raises ValueError where the model can't follow one."""


class Refused(Exception):
    """An answer that is not 2xx."""

    def __init__(self, status: int, error: str, detail: str, headers: dict[str, str] | None = None):
        super().__init__(detail)
        self.status, self.error, self.detail, self.headers = status, error, detail, headers


def create_app(service: Service, key_sha256: str) -> FastAPI:
    """The application. `key_sha256`: hex digest of the API key, which is itself never kept."""
    # no documentation pages: their scripts come from a third party; /openapi.json is for any tool
    app = FastAPI(
        title="Raycadian forecasts", version="1", docs_url=None, redoc_url=None,
        description="Glucose forecasts from recent readings, estimates from biosignals. "
        "Research only: not a medical device.",
    )  # fmt: skip
    _add_open_paths(app, service)
    _add_guarded_paths(app, service, key_sha256)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unforeseen)
    _complete_description(app)
    return app


def _add_open_paths(app: FastAPI, service: Service) -> None:
    @app.get("/healthz")
    async def alive() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    @app.get("/readyz", responses={503: {"model": Problem}})
    async def ready() -> dict[str, str]:
        """A model is loaded."""
        return {"status": "ready", "model": _loaded(service)["model"]}


def _add_guarded_paths(app: FastAPI, service: Service, key_sha256: str) -> None:
    problems: dict[int | str, dict[str, Any]] = {code: {"model": Problem} for code in (401, 403, 413, 422, 503)}
    for schema in REQUESTS:
        _add_post(app, service, key_sha256, schema, problems)
    _add_stream(app, service, key_sha256)

    @app.get("/v1/model", response_model=ModelResponse, responses={code: problems[code] for code in (401, 503)})
    async def model(request: Request) -> dict[str, Any]:
        """What is served, and how good it is."""
        _require_key(request, key_sha256)
        return _loaded(service)


def _add_post(
    app: FastAPI,
    service: Service,
    key_sha256: str,
    schema: type[RequestSchema],
    problems: dict[int | str, dict[str, Any]],
) -> None:
    """Key, limits and validation are called here, not declared as dependencies: the limit comes before parsing, and the
    key before both."""

    async def post(request: Request) -> Response:
        _require_key(request, key_sha256)
        data = _data(schema, await _limited_body(request, schema.most_bytes, schema.enough))
        _loaded(service)
        return _answered(await service.answer(data, request.headers.get(PERSON_KEY)), schema.refusal)

    example = {"content": {_JSON: {"example": schema.answer_example}}, "model": schema.answer}
    app.add_api_route(
        schema.path, post, methods=["POST"], responses=problems | {200: example}, response_class=Response,
        name=schema.path.rpartition("/")[2], description=schema.summary,
    )  # fmt: skip
    # the same function before FastAPI's own way to it, which describes it but takes as long as reading the request
    app.router.routes.insert(0, Route(schema.path, post, methods=["POST"]))


def _add_stream(app: FastAPI, service: Service, key_sha256: str) -> None:
    @app.websocket(f"{BiosignalRequest.path}/stream")
    async def stream(socket: WebSocket) -> None:
        """Samples as they come; every message is answered with the windows that it completes. docs/howto/serve.md"""
        await socket.accept()
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
    stream = service.open_stream(_valid(StreamStart, await _message(socket)).rates())
    windows: list[dict[str, Any]] = []
    while True:
        await socket.send_text(json.dumps({"model": model, "windows": windows}))
        samples = _valid(StreamSamples, await _message(socket)).samples()
        windows = await asyncio.to_thread(stream.push, samples)


def _answered(answer: Answer | ValueError, refusal: str) -> Response:
    if isinstance(answer, Forbidden):
        raise Refused(403, "forbidden", str(answer))
    if isinstance(answer, ValueError):
        raise Refused(422, refusal, str(answer))
    return Response(to_json(answer.as_dict()), media_type=_JSON)


async def _message(socket: WebSocket) -> bytes:
    text = await socket.receive_text()
    if len(text) > MAX_MESSAGE:
        raise Refused(413, "too_large", f"a message may have {MAX_MESSAGE:,} characters, found {len(text):,}")
    return text.encode()


async def _end(socket: WebSocket, error: str, detail: str) -> None:
    """Say why, then close (1008: policy violation)."""
    await socket.send_text(json.dumps({"error": error, "detail": detail}))
    await socket.close(1008)


def _loaded(service: Service) -> dict[str, Any]:
    model = service.describe()
    if model is None:
        raise Refused(503, "not_ready", "no model is loaded yet; ask again in a few seconds", {"Retry-After": "5"})
    return model


async def _limited_body(request: Request, most: int, enough: str) -> bytes:
    """The body, at most `most` bytes; whoever announces more is refused before sending it."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise _too_large(f"{int(announced):,}", most, enough)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise _too_large("more", most, enough)
    return bytes(body)


def _too_large(bytes_sent: str, most: int, enough: str) -> Refused:
    detail = f"the body may have {most:,} bytes, found {bytes_sent}; {enough}"
    return Refused(413, "too_large", detail, {"Connection": "close"})


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
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secrets.compare_digest(digest(key.strip()), key_sha256):
        detail = f"send `Authorization: Bearer KEY`; the server's KEY is in {KEY_VARIABLE} or {KEY_FILE}"
        raise Refused(401, "unauthorized", detail, {"WWW-Authenticate": "Bearer"})


# --- errors and documentation -----------------------------------------------------------------------------------------


async def _refused(request: Request, error: Any) -> Response:
    return _problem(error.status, error.error, error.detail, error.headers)


async def _http_error(request: Request, error: Any) -> Response:
    """Unknown paths and methods, in our words."""
    name = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    return _problem(error.status_code, name, f"{request.method} {request.url.path}: {error.detail}", error.headers)


async def _unforeseen(request: Request, error: Exception) -> Response:
    return _problem(500, "internal", "the server failed; its log says why")  # nothing of the request


def _problem(status: int, error: str, detail: str, headers: Any = None) -> Response:
    return JSONResponse({"error": error, "detail": detail}, status, headers)


def _complete_description(app: FastAPI) -> None:
    """Add to the OpenAPI description what FastAPI does not see: the key, and the bodies of POST."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            description = describe()
            description["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for schema in REQUESTS:
                _describe_body(description, schema)
            for path, methods in description["paths"].items():
                for operation in methods.values():
                    operation["security"] = [{"key": []}] if path.startswith("/v1/") else []
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _describe_body(description: dict[str, Any], schema: type[RequestSchema]) -> None:
    """Add the body and the person's key of one POST path."""
    name, post = schema.__name__, description["paths"][schema.path]["post"]
    body = schema.model_json_schema(ref_template="#/components/schemas/{model}")
    description["components"]["schemas"] |= body.pop("$defs", {}) | {name: body}
    header = {"name": PERSON_KEY, "in": "header", "required": False, "schema": {"type": "string"}}
    post.setdefault("parameters", []).append(header)
    content = {_JSON: {"schema": {"$ref": f"#/components/schemas/{name}"}, "example": schema.example}}
    post["requestBody"] = {"required": True, "content": content}
