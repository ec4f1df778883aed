"""Pulling from one Pub/Sub subscription: pages of raw messages, leases and acknowledgements.

Raw gRPC stubs, an order of magnitude faster than the library's wrappers, and pages straight from the wire to Arrow: a
Python object for each message would take a quarter of all the time. Credentials and the channel come from the library.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import ptars
import pyarrow as pa
import pyarrow.compute as pc
from google.pubsub_v1.types import (
    AcknowledgeRequest,
    GetSubscriptionRequest,
    ModifyAckDeadlineRequest,
    PullRequest,
    PullResponse,
    Subscription,
)

from lakehouse import failpoints
from lakehouse.errors import SourceError
from lakehouse.schemas import DELIVERED

MAX_ACK_IDS = 2_500
"""Pub/Sub refuses requests over 512 KiB; 2,500 ack ids are safely below."""

PAGE_MESSAGES = 1_000
_MAX_MESSAGE_BYTES = 64 * 1024**2
_RETRIED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED,
            grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}  # fmt: skip
_FATAL = {
    grpc.StatusCode.NOT_FOUND: ("no such subscription", "Create it, or mend `subscription` in the topic's file."),
    grpc.StatusCode.PERMISSION_DENIED: ("no permission", "Grant roles/pubsub.subscriber on it to this account."),
    grpc.StatusCode.UNAUTHENTICATED: ("no valid credentials", "Give the job a service account, or log in."),
    grpc.StatusCode.INVALID_ARGUMENT: ("a refused request", "Mend `subscription` in the topic's file."),
    grpc.StatusCode.FAILED_PRECONDITION: ("a subscription that cannot be pulled", "It must be a pull subscription."),
}
_PATIENCE = timedelta(seconds=60)
"""How long an unavailable service is asked again before the batch fails; Spark then restarts or stops the query."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_EMPTY_PAUSE = 0.1
"""Some servers answer an empty pull at once."""
_ANSWER_SECONDS = 1.0
"""Others answer it so long before its deadline; a call that is cut off may take messages that nobody then sees."""


_ANSWERS = ptars.HandlerPool(
    [PullResponse.pb().DESCRIPTOR.file], config=ptars.PtarsConfig(timestamp_unit="us")
).get_for_message(PullResponse.pb().DESCRIPTOR)
_UNTIMED = pa.scalar(0, pa.int64()).cast(DELIVERED.field("publish_time").type)


@dataclass(frozen=True)
class Page:
    """Messages as one answer brought them, in columns `DELIVERED`, and what acknowledges each."""

    messages: pa.RecordBatch
    ack_ids: list[str]
    size_bytes: int

    @classmethod
    def from_bytes(cls, answer: bytes) -> Page:
        """From Pub/Sub's PullResponse; ValueError when it is none."""
        received = _ANSWERS.list_to_record_batch([answer]).column(0).flatten()
        message = received.field("message")
        attributes = message.field("attributes")
        columns = [
            message.field("message_id"),
            pc.fill_null(message.field("publish_time"), _UNTIMED),
            pa.MapArray.from_arrays(attributes.offsets, attributes.keys, attributes.items),
            message.field("data"),
        ]
        messages = pa.RecordBatch.from_arrays(columns, schema=DELIVERED)
        return cls(messages, received.field("ack_id").to_pylist(), len(answer))


class SubscriptionReader:
    """One channel to one subscription. Usable by several threads."""

    def __init__(self, subscription: str, *, patience: timedelta = _PATIENCE) -> None:
        self.subscription = subscription
        self._patience = patience
        self._channel = _channel(subscription)
        self._pull = self._method("Pull", PullRequest.pb(), Page.from_bytes)
        self._acknowledge = self._method("Acknowledge", AcknowledgeRequest.pb())
        self._modify = self._method("ModifyAckDeadline", ModifyAckDeadlineRequest.pb())
        self._get = self._method("GetSubscription", GetSubscriptionRequest.pb(), Subscription.pb().FromString)

    def ack_deadline(self) -> timedelta:
        """How long the subscription leases a message. SourceError when it cannot be had."""
        request = GetSubscriptionRequest.pb()(subscription=self.subscription)
        answer = self._patiently(lambda: self._get(request, timeout=10.0))
        return timedelta(seconds=answer.ack_deadline_seconds or 10)

    def pull(self, max_messages: int, wait: float) -> Page | None:
        """The next page, or None when nothing came for `wait` seconds, however soon the server says it is empty."""
        return self.ask(max_messages, wait).page()

    def ask(self, max_messages: int, wait: float) -> Asked:
        """A `pull` that is under way while its caller does something else."""
        request = PullRequest.pb()(subscription=self.subscription, max_messages=max_messages)
        return Asked(self, request, time.monotonic() + wait)

    def acknowledge(self, ack_ids: Iterable[str]) -> None:
        """Acknowledge; a request that fails for good only means that its messages will come again."""
        kind = AcknowledgeRequest.pb()
        requests = [kind(subscription=self.subscription, ack_ids=chunk) for chunk in _chunks(list(ack_ids))]
        self._send(self._acknowledge, requests, halfway="pull.half_acknowledged")

    def extend(self, ack_ids: Iterable[str], deadline: timedelta) -> None:
        """Give the leases `deadline` from now; zero gives the messages back at once."""
        kind = ModifyAckDeadlineRequest.pb()
        seconds = int(deadline.total_seconds())
        requests = [
            kind(subscription=self.subscription, ack_ids=chunk, ack_deadline_seconds=seconds)
            for chunk in _chunks(list(ack_ids))
        ]
        self._send(self._modify, requests)

    def give_back(self, ack_ids: Iterable[str]) -> None:
        self.extend(ack_ids, timedelta(0))

    def close(self) -> None:
        self._channel.close()

    def _method(self, name: str, request: Any, read: Callable[[bytes], Any] | None = None) -> Any:
        return self._channel.unary_unary(
            f"/google.pubsub.v1.Subscriber/{name}",
            request_serializer=request.SerializeToString,
            response_deserializer=read,
        )

    def _call(self, request: Any, wait: float) -> Any:
        return self._pull.future(request, timeout=wait + min(wait, _ANSWER_SECONDS))

    def _send(self, method: Any, requests: list[Any], halfway: str | None = None) -> None:
        """All requests at once; those that failed in passing again, until patience ends."""
        deadline = time.monotonic() + self._patience.total_seconds()
        pause = _FIRST_PAUSE
        while requests:
            calls = []
            for number, request in enumerate(requests):
                if halfway and number and number == len(requests) // 2:
                    failpoints.reached(halfway)
                calls.append((request, method.future(request, timeout=30.0)))
            requests = [request for request, call in calls if _passing(call.exception())]
            if not requests or time.monotonic() > deadline:
                return
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _patiently(self, call: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + self._patience.total_seconds()
        pause = _FIRST_PAUSE
        while True:
            try:
                return call()
            except grpc.RpcError as error:
                if not _passing(error) or time.monotonic() > deadline:
                    raise self._explained(error) from error
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _explained(self, error: Any) -> SourceError:
        found, next_step = _FATAL.get(error.code(), (None, None))
        where = os.environ.get("PUBSUB_EMULATOR_HOST")
        place = f"the emulator at {where}" if where else "Pub/Sub"
        return SourceError(
            self.subscription,
            found=f"{found} ({error.details()})" if found else f"{place} {error.code().name}: {error.details()}",
            expected=f"a subscription that can be pulled from {place}",
            next_step=next_step or "Check that it can be reached from here; `lakehouse sandbox` starts a broker.",
        )


class Asked:
    """A pull under way; `at` is when it was sent."""

    def __init__(self, reader: SubscriptionReader, request: Any, deadline: float) -> None:
        self.at = datetime.now(UTC)
        self._reader, self._request, self._deadline = reader, request, deadline
        self._call = reader._call(request, max(0.0, deadline - time.monotonic()))

    def page(self) -> Page | None:
        """What it brought, asked again while it brings nothing and there is time."""
        while True:
            page: Page | None = self._reader._patiently(self._answer)
            if page is not None and len(page.messages):
                return page
            time.sleep(max(0.0, min(_EMPTY_PAUSE, self._left())))
            if self._left() <= 0:
                return None
            self._call = self._reader._call(self._request, self._left())

    def _answer(self) -> Any:
        """Pub/Sub holds an empty pull open for longer than we wait: our deadline then says that nothing came."""
        if self._call is None:
            self._call = self._reader._call(self._request, max(self._left(), _ANSWER_SECONDS))
        try:
            return self._call.result()
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                return None
            self._call = None
            raise

    def _left(self) -> float:
        return self._deadline - time.monotonic()


def _passing(error: Any) -> bool:
    return isinstance(error, grpc.RpcError) and error.code() in (_RETRIED | {grpc.StatusCode.DEADLINE_EXCEEDED})


def _chunks(ack_ids: list[str]) -> Iterator[list[str]]:
    return (ack_ids[start : start + MAX_ACK_IDS] for start in range(0, len(ack_ids), MAX_ACK_IDS))


def _channel(subscription: str) -> grpc.Channel:
    options = [("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES), ("grpc.use_local_subchannel_pool", 1)]
    emulator = os.environ.get("PUBSUB_EMULATOR_HOST")
    if emulator:
        return grpc.insecure_channel(emulator, options)
    import google.auth
    import google.auth.transport.grpc
    import google.auth.transport.requests
    from google.auth.exceptions import DefaultCredentialsError

    try:
        credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/pubsub"])
    except DefaultCredentialsError as missing:
        raise SourceError(
            subscription,
            found="no Google credentials here",
            expected="Application Default Credentials, or an emulator's address in PUBSUB_EMULATOR_HOST",
            next_step="Run `gcloud auth application-default login`, or `lakehouse sandbox` for a broker of your own.",
        ) from missing
    request = google.auth.transport.requests.Request()
    return google.auth.transport.grpc.secure_authorized_channel(  # type: ignore[no-untyped-call]
        credentials, request, "pubsub.googleapis.com:443", options=options
    )


class Leases:
    """Keeps pulled messages leased, by a thread, until they are acknowledged or given back."""

    def __init__(self, reader: SubscriptionReader, deadline: timedelta) -> None:
        self._reader, self._deadline = reader, deadline
        self._held: list[_Lease] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="leases", daemon=True)
        self._thread.start()

    def hold(self, ack_ids: list[str]) -> None:
        with self._lock:
            self._held.append(_Lease(ack_ids, self._from_now()))

    def acknowledge(self) -> None:
        self._reader.acknowledge(self._let_go())

    def give_back(self) -> None:
        self._reader.give_back(self._let_go())

    def stop(self) -> None:
        """Extend nothing any more: what is still held then comes again by itself."""
        self._stopped.set()
        self._thread.join()

    def _let_go(self) -> list[str]:
        """Everything held; the thread must not extend a lease that is being ended."""
        self.stop()
        with self._lock:
            held, self._held = self._held, []
        return [ack_id for lease in held for ack_id in lease.ack_ids]

    def _keep(self) -> None:
        """Extend at half of the deadline, so that one lost request does no harm."""
        half = self._deadline.total_seconds() / 2
        while not self._stopped.wait(half / 5):
            soon = time.monotonic() + half
            with self._lock:
                due = [lease for lease in self._held if lease.until < soon]
            if due:
                self._reader.extend((ack_id for lease in due for ack_id in lease.ack_ids), self._deadline)
                for lease in due:
                    lease.until = self._from_now()

    def _from_now(self) -> float:
        return time.monotonic() + self._deadline.total_seconds()


@dataclass
class _Lease:
    """A page's, as its messages are leased together."""

    ack_ids: list[str]
    until: float
