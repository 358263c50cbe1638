"""What /openapi.json says beside what FastAPI sees: the key, the bodies of POST, and examples that the model that is
served answers."""

from typing import Any, Protocol

from fastapi import FastAPI

from raycadian.modalities import MODALITIES
from raycadian.modalities.request import RequestSchema
from raycadian.serving.schemas import Problem

REQUESTS: tuple[type[RequestSchema], ...] = tuple(modality.request() for modality in MODALITIES.values())
"""What may be sent: a POST path each."""
PERSON_KEY = "x-raycadian-person-key"  # header: asks for the adapter of the body's `subject`
_JSON = "application/json"


class Exemplary(Protocol):
    def describe(self) -> dict[str, Any] | None: ...

    def example(self) -> dict[str, Any] | None: ...


def complete_description(app: FastAPI, service: Exemplary) -> None:
    """Have `app.openapi` say all of it, with the examples of what is served now."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(describe())
        _set_examples(app.openapi_schema, service)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(description: dict[str, Any]) -> None:
    description["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    description["components"]["schemas"].setdefault("Problem", Problem.model_json_schema())
    for schema in REQUESTS:
        _describe_body(description, schema)
    problem = {"description": "", "content": {_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    for path, methods in description["paths"].items():
        for operation in methods.values():
            operation["security"] = [{"key": []}] if path.startswith("/v1/") else []
            operation["responses"]["405"] = problem | {"description": "Method Not Allowed"}


def _describe_body(description: dict[str, Any], schema: type[RequestSchema]) -> None:
    """Add the body and the person's key of one POST path."""
    name, post = schema.__name__, description["paths"][schema.path]["post"]
    body = schema.model_json_schema(ref_template="#/components/schemas/{model}")
    description["components"]["schemas"] |= body.pop("$defs", {}) | {name: body}
    header = {"name": PERSON_KEY, "in": "header", "required": False, "schema": {"type": "string"}}
    post.setdefault("parameters", []).append(header)
    post["requestBody"] = {"required": True, "content": {_JSON: {"schema": {"$ref": f"#/components/schemas/{name}"}}}}


def _set_examples(description: dict[str, Any], service: Exemplary) -> None:
    """Of the path of what is served a request that it answers; none of the others, which no request is answered on."""
    served = (service.describe() or {}).get("path")
    for schema in REQUESTS:
        content = description["paths"][schema.path]["post"]["requestBody"]["content"][_JSON]
        if served is None:
            content["example"] = schema.example
        elif served == schema.path:
            content["example"] = service.example()
        else:
            content.pop("example", None)
