"""The endpoint as a web application: paths, key, limits, errors. FastAPI alone; who computes is handed in."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.routing import Route

from raycadian.personal.store import Forbidden
from raycadian.serving.classifier import Estimate, Sent
from raycadian.serving.forecaster import Forecast, History
from raycadian.serving.personal import PersonalEstimate
from raycadian.serving.schemas import (
    EXAMPLE_REQUEST,
    EXAMPLE_RESPONSE,
    MAX_BYTES,
    ForecastRequest,
    ForecastResponse,
    ModelResponse,
    Problem,
    explain,
    to_history,
)  # fmt: skip
from raycadian.serving.signal_schemas import (
    ACTIGRAPHY_REQUEST,
    MAX_MESSAGE,
    MAX_SIGNAL_BYTES,
    SIGNAL_REQUEST,
    SIGNAL_RESPONSE,
    ActigraphyRequest,
    BiosignalRequest,
    BiosignalResponse,
    StreamSamples,
    StreamStart,
)  # fmt: skip
from raycadian.serving.stream import SignalStream

KEY_VARIABLE = "RAYCADIAN_API_KEY"
KEY_FILE = Path("~/.config/raycadian/api_key")
PERSON_KEY = "x-raycadian-person-key"  # header: asks for the adapter of the body's `subject`
_KEY_CHARACTERS = 16  # at least
_JSON = "application/json"


class Service(Protocol):
    """Who computes the answers."""

    def describe(self) -> dict[str, Any] | None:
        """The model as in ModelResponse; None while none is loaded."""

    async def answer(self, history: History) -> Forecast | ValueError:
        """A forecast, or why there can be none."""

    async def answer_signals(self, sent: Sent) -> Estimate | ValueError:
        """Estimates of a classifier or regression, or why there can be none."""

    async def answer_person(self, asked: Sent | History, key: str) -> PersonalEstimate | Forecast | ValueError:
        """The same by the adapter of the `subject`, whose key this is; Forbidden where it isn't, or there is none."""

    def open_stream(self, channels: dict[str, tuple[float, str]]) -> SignalStream:
        """A stream of channels (rate in Hz, unit). Raises ValueError where the model can't follow one."""


class NonFiniteLoss(Exception):
    """An answer that is not 2xx."""

    def __init__(self, status: int, error: str, detail: str, headers: dict[str, str] | None = None):
        super().__init__(detail)
        self.status, self.error, self.detail, self.headers = status, error, detail, headers


def create_app(service: Service, key_sha256: str) -> FastAPI:
    """The application. `key_sha256`: hex digest of the API key, which is itself never kept."""
    # no documentation pages: their scripts come from a third party; /openapi.json is for any tool
    app = FastAPI(
        title="Raycadian forecasts", version="1", docs_url=None, redoc_url=None,
        description="Glucose forecasts from recent readings, estimates from biosignals. Research only: not a medical device.",
    )  # fmt: skip
    _add_open_paths(app, service)
    _add_guarded_paths(app, service, key_sha256)
    app.add_exception_handler(NonFiniteLoss, _refused)
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
    """Key, limits and validation are called here, not declared as dependencies: the limit comes before parsing, and the
    key before both."""
    problems: dict[int | str, dict[str, Any]] = {code: {"model": Problem} for code in (401, 403, 413, 422, 503)}
    example = {"content": {_JSON: {"example": EXAMPLE_RESPONSE}}, "model": ForecastResponse}

    @app.post("/v1/forecast", responses=problems | {200: example}, response_class=Response)
    async def forecast(request: Request) -> Response:
        """Forecast from the last reading. Requests that arrive together are computed together."""
        _require_key(request, key_sha256)
        history = _parsed(await _limited_body(request, MAX_BYTES, "three weeks of readings suffice"))
        _loaded(service)
        key = request.headers.get(PERSON_KEY)
        found = await (service.answer(history) if key is None else service.answer_person(history, key))
        return _answered(found, "cannot_forecast")

    # the same function before FastAPI's own way to it, which describes it but takes as long as reading the request
    app.router.routes.insert(0, Route("/v1/forecast", forecast, methods=["POST"]))

    _add_biosignal(app, service, key_sha256, problems)

    @app.get("/v1/model", response_model=ModelResponse, responses={code: problems[code] for code in (401, 503)})
    async def model(request: Request) -> dict[str, Any]:
        """What is served, and how good it is."""
        _require_key(request, key_sha256)
        return _loaded(service)


def _add_biosignal(app: FastAPI, service: Service, key_sha256: str, problems: dict[int | str, dict[str, Any]]) -> None:
    example = {"content": {_JSON: {"example": SIGNAL_RESPONSE}}, "model": BiosignalResponse}

    @app.post("/v1/biosignal", responses=problems | {200: example}, response_class=Response)
    async def biosignal(request: Request) -> Response:
        """Quality and calibrated probability of every window of raw samples."""
        _require_key(request, key_sha256)
        body = await _limited_body(request, MAX_SIGNAL_BYTES, "twenty minutes of three channels suffice")
        return await estimated(request, _valid(BiosignalRequest, body).signals())

    @app.post("/v1/actigraphy", responses=problems | {200: example}, response_class=Response)
    async def actigraphy(request: Request) -> Response:
        """Calibrated probability of every window of activity by the minute; with a person's key by their own adapter."""
        _require_key(request, key_sha256)
        body = await _limited_body(request, MAX_SIGNAL_BYTES, "some weeks of minutes suffice")
        return await estimated(request, _valid(ActigraphyRequest, body).activity())

    async def estimated(request: Request, sent: Sent) -> Response:
        _loaded(service)
        key = request.headers.get(PERSON_KEY)
        found = await (service.answer_signals(sent) if key is None else service.answer_person(sent, key))
        return _answered(found, "cannot_estimate")

    app.router.routes.insert(0, Route("/v1/biosignal", biosignal, methods=["POST"]))
    app.router.routes.insert(0, Route("/v1/actigraphy", actigraphy, methods=["POST"]))

    @app.websocket("/v1/biosignal/stream")
    async def stream(socket: WebSocket) -> None:
        """Samples as they come; every message is answered with the windows that it completes. docs/vitaldb.md"""
        await socket.accept()
        try:
            _require_key(socket, key_sha256)
            described = _loaded(service)
            opened = service.open_stream(_valid(StreamStart, await _message(socket)).rates())
            await socket.send_text(json.dumps({"model": described["model"], "windows": []}))
            while True:
                samples = _valid(StreamSamples, await _message(socket)).samples()
                windows = await asyncio.to_thread(opened.push, samples)
                await socket.send_text(json.dumps({"model": described["model"], "windows": windows}))
        except WebSocketDisconnect:
            return
        except NonFiniteLoss as error:
            await _end(socket, error.error, error.detail)
        except ValueError as error:
            await _end(socket, "cannot_estimate", str(error))


def _answered(found: Any, error: str) -> Response:
    if isinstance(found, Forbidden):
        raise NonFiniteLoss(403, "forbidden", str(found))
    if isinstance(found, ValueError):
        raise NonFiniteLoss(422, error, str(found))
    return Response(to_json(found.as_dict()), media_type=_JSON)


async def _message(socket: WebSocket) -> bytes:
    text = await socket.receive_text()
    if len(text) > MAX_MESSAGE:
        raise NonFiniteLoss(413, "too_large", f"a message may have {MAX_MESSAGE:,} characters, found {len(text):,}")
    return text.encode()


async def _end(socket: WebSocket, error: str, detail: str) -> None:
    """Say why, then close (1008: policy violation)."""
    await socket.send_text(json.dumps({"error": error, "detail": detail}))
    await socket.close(1008)


def _loaded(service: Service) -> dict[str, Any]:
    found = service.describe()
    if found is None:
        raise NonFiniteLoss(
            503, "not_ready", "no model is loaded yet; ask again in a few seconds", {"Retry-After": "5"}
        )
    return found


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


def _too_large(found: str, most: int, enough: str) -> NonFiniteLoss:
    detail = f"the body may have {most:,} bytes, found {found}; {enough}"
    return NonFiniteLoss(413, "too_large", detail, {"Connection": "close"})


def _parsed(body: bytes) -> History:
    try:
        return to_history(_valid(ForecastRequest, body))
    except ValueError as error:
        raise NonFiniteLoss(422, "invalid_request", str(error)) from None


def _valid(schema: type[Any], body: bytes) -> Any:
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        raise NonFiniteLoss(422, "invalid_request", explain(error)) from None


# --- the key --------------------------------------------------------------------------------------------------------


def _require_key(request: Request | WebSocket, key_sha256: str) -> None:
    """Let nobody in without the key; compared in constant time."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secrets.compare_digest(digest(key.strip()), key_sha256):
        detail = f"send `Authorization: Bearer KEY`; the server's KEY is in {KEY_VARIABLE} or {KEY_FILE}"
        raise NonFiniteLoss(401, "unauthorized", detail, {"WWW-Authenticate": "Bearer"})


def digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def api_key() -> str:
    """The server's key: from the environment, else from a file that only its owner reads, made on first use.

    Raises ValueError for a key that is too short or a file that others may read.
    """
    key = os.environ.get(KEY_VARIABLE)
    if key is None:
        key = _key_in(KEY_FILE.expanduser())
    if len(key) < _KEY_CHARACTERS or not key.isascii() or not key.isprintable():
        raise ValueError(
            f"{key_source()}: a key has {_KEY_CHARACTERS} or more printable ASCII characters; found {len(key)}"
        )
    return key


def key_source() -> str:
    """Where the key comes from."""
    return f"environment {KEY_VARIABLE}" if KEY_VARIABLE in os.environ else str(KEY_FILE)


def _key_in(path: Path) -> str:
    """The key in a file, made whole or not at all where there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
        with suppress(FileExistsError):  # another process was quicker: its key stands
            os.link(temporary, path)
        temporary.unlink()
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise ValueError(f"{path}: others may read the key (mode {mode:o}); run `chmod 600 {path}`")
    return path.read_text(encoding="utf-8").strip()


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
    bodies: dict[str, tuple[type[Any], dict[str, Any]]] = {
        "/v1/forecast": (ForecastRequest, EXAMPLE_REQUEST),
        "/v1/biosignal": (BiosignalRequest, SIGNAL_REQUEST),
        "/v1/actigraphy": (ActigraphyRequest, ACTIGRAPHY_REQUEST),
    }

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = describe()
            found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for path, (model, example) in bodies.items():
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                found["components"]["schemas"] |= schema.pop("$defs", {}) | {model.__name__: schema}
                header = {"name": PERSON_KEY, "in": "header", "required": False, "schema": {"type": "string"}}
                found["paths"][path]["post"].setdefault("parameters", []).append(header)
                content = {_JSON: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}, "example": example}}
                found["paths"][path]["post"] |= {"requestBody": {"required": True, "content": content}}
            for path, methods in found["paths"].items():
                for operation in methods.values():
                    operation["security"] = [{"key": []}] if path.startswith("/v1/") else []
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
