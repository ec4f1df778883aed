"""Pub/Sub's schema service: revisions of schemas, by gRPC."""

from __future__ import annotations

from typing import Any

import grpc
from google.api_core.exceptions import RetryError
from google.pubsub_v1.types import GetSchemaRequest, Schema, SchemaView

from lakehouse.errors import SourceError, UnansweredError
from lakehouse.landing.brokers.channel import place, shared_channel, status_text
from lakehouse.landing.brokers.pubsub import Pauses
from lakehouse.landing.registries.contract import AVRO, PROTOBUF, Definition

_CALL_SECONDS = 10.0
_FORMATS = {Schema.Type.AVRO: AVRO, Schema.Type.PROTOCOL_BUFFER: PROTOBUF}
_DENIED = {
    grpc.StatusCode.PERMISSION_DENIED: (
        "no permission",
        "Grant roles/pubsub.viewer on the schema or its project to this account, for pubsub.schemas.get.",
    ),
    grpc.StatusCode.UNAUTHENTICATED: ("no valid credentials", "Give the job a service account, or log in."),
}
_NONE = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT}
"""Also a name that is none: only a person can have written such an attribute."""


class SchemaServiceRegistry:
    """Ids are `projects/<project>/schemas/<schema>@<revision>`; without a revision, the newest."""

    def __init__(self, pauses: Pauses | None = None) -> None:
        self._retry = (pauses or Pauses()).retry()

    def definition(self, schema_id: str) -> Definition | None:
        if schema_id.count("/") != 3:
            return None
        try:
            schema = self._get(schema_id)
        except grpc.RpcError as error:
            if error.code() in _NONE:
                return None
            raise _source_error(schema_id, error) from error
        kind = _FORMATS.get(Schema.Type(schema.type_), str(schema.type_))
        return Definition(kind, schema.definition)

    def newest(self, name: str) -> Definition:
        found = self.definition(name)
        if found is None:
            raise SourceError(
                name,
                found="no such schema",
                expected=f"a schema of {place()}, as `projects/<project>/schemas/<schema>`",
                next_step="See `gcloud pubsub schemas list`.",
            )
        return found

    def _get(self, name: str) -> Any:
        """Made again while it fails in passing; grpc.RpcError when it fails for good, or for too long."""
        ask = shared_channel(name).unary_unary(
            "/google.pubsub.v1.SchemaService/GetSchema",
            request_serializer=GetSchemaRequest.pb().SerializeToString,
            response_deserializer=Schema.pb().FromString,
        )
        request = GetSchemaRequest.pb()(name=name, view=SchemaView.FULL)
        try:
            return self._retry(lambda: ask(request, timeout=_CALL_SECONDS))()
        except RetryError as error:
            raise error.cause from error


def _source_error(schema_id: str, error: Any) -> SourceError:
    found, next_step = _DENIED.get(error.code(), (None, None))
    kind = SourceError if found else UnansweredError
    return kind(
        schema_id,
        found=f"{found} ({error.details()})" if found else f"{place()} {status_text(error)}",
        expected="the schema that messages of the topic say they are written by",
        next_step=next_step or "Nothing is lost: messages wait until the schema can be had.",
    )
