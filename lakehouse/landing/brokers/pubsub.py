"""One Pub/Sub subscription: pulls, acknowledgements, leases.

Raw gRPC stubs, an order of magnitude faster than the library's wrappers, and pages straight from the wire to Arrow: a
Python object for each message would take a quarter of all the time. Credentials and the channel come from the library.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import Any

import grpc
from google.api_core.exceptions import RetryError
from google.api_core.retry import Retry
from google.pubsub_v1.types import (
    AcknowledgeRequest,
    GetSubscriptionRequest,
    ModifyAckDeadlineRequest,
    PullRequest,
    Subscription,
)

from lakehouse import failpoints
from lakehouse.clock import Clock, now
from lakehouse.errors import SourceError, UnansweredError
from lakehouse.landing.brokers.answers import PAGE_READERS, Page, empty_page
from lakehouse.landing.brokers.channel import channel_to, place, status_text
from lakehouse.landing.brokers.contract import LONGEST_CALL, Refused

MAX_ACK_IDS = 1_000
"""Ids in one request, as Google's own clients have it."""
MAX_REQUEST_BYTES = 512 * 1024 - 8 * 1024
"""Pub/Sub refuses an Acknowledge or ModifyAckDeadline over 524,288 bytes; a little is left for what it adds."""
PAGE_MESSAGES = 1_000
"""Pub/Sub's largest page."""

_PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED,
            grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED}  # fmt: skip
_FATAL = {
    grpc.StatusCode.NOT_FOUND: ("no such subscription", "Create it, or fix `subscription` in the topic's file."),
    grpc.StatusCode.PERMISSION_DENIED: (
        "no permission",
        "Grant roles/pubsub.subscriber and roles/pubsub.viewer on it to this account: the first has no "
        "pubsub.subscriptions.get.",
    ),
    grpc.StatusCode.UNAUTHENTICATED: ("no valid credentials", "Give the job a service account, or log in."),
    grpc.StatusCode.INVALID_ARGUMENT: ("a refused request", "Fix `subscription` in the topic's file."),
    grpc.StatusCode.FAILED_PRECONDITION: ("a subscription that cannot be pulled", "It must be a pull subscription."),
}
EMPTY_PAUSE = 0.1
"""Some servers answer an empty pull at once."""
ANSWER_SECONDS = 1.0
"""Others answer it so long before its deadline; a call that is cut off may take messages that nobody then sees."""
_MOST_SPLITS = 64
"""Requests of one call that are halved when they are refused: enough for sizes, no flood where every id is bad."""


@dataclass(frozen=True)
class Pauses:
    """How a failure that passes is waited out: pauses double from `first` to `longest`, until `patience` ends.

    Then the batch fails, and Spark restarts or stops the query.
    """

    first: timedelta = timedelta(seconds=0.1)
    longest: timedelta = timedelta(seconds=5)
    patience: timedelta = timedelta(seconds=60)

    def retry(self) -> Retry:
        return Retry(
            predicate=is_passing,
            initial=self.first.total_seconds(),
            maximum=self.longest.total_seconds(),
            timeout=self.patience.total_seconds(),
        )


class SubscriptionReader:
    """One channel to one subscription. Usable by several threads.

    `answers` names a reader of `PAGE_READERS`; `clock` says when pulls were sent. A `channel` that is given stays open
    when the reader is closed.
    """

    def __init__(
        self,
        subscription: str,
        *,
        answers: str,
        channel: grpc.Channel | None = None,
        pauses: Pauses | None = None,
        max_ack_ids: int = MAX_ACK_IDS,
        clock: Clock = now,
    ) -> None:
        self.subscription, self.clock = subscription, clock
        self._max_ack_ids = max_ack_ids
        self.pauses = pauses or Pauses()
        self._retry = self.pauses.retry()
        self._channel, self._has_own_channel = channel or channel_to(subscription), channel is None
        self._answers = answers

    @cached_property
    def _pull(self) -> Any:
        read = PAGE_READERS[self._answers]
        return self._method("Pull", PullRequest.pb(), lambda answer: read(answer) if answer else empty_page())

    @cached_property
    def _acknowledge(self) -> Any:
        return self._method("Acknowledge", AcknowledgeRequest.pb())

    @cached_property
    def _modify(self) -> Any:
        return self._method("ModifyAckDeadline", ModifyAckDeadlineRequest.pb())

    @cached_property
    def _get(self) -> Any:
        return self._method("GetSubscription", GetSubscriptionRequest.pb(), Subscription.pb().FromString)

    def ack_deadline(self) -> timedelta:
        """How long the subscription leases a message. SourceError when it cannot be had.

        An administrator's call, of which a project has few per minute: once per run and topic.
        """
        request = GetSubscriptionRequest.pb()(subscription=self.subscription)
        answer = self.with_retries(lambda: self._get(request, timeout=10.0))
        return timedelta(seconds=answer.ack_deadline_seconds or 10)

    def pull(self, max_messages: int, wait: float) -> Page | None:
        """The next page, or None when nothing came for `wait` seconds, however soon the server says it is empty."""
        return self.ask(max_messages, wait).page()

    def ask(self, max_messages: int, wait: float) -> PendingPull:
        """A `pull` that is under way while its caller does something else."""
        return PendingPull(self, self.pull_request(max_messages), time.monotonic() + wait)

    def pull_request(self, max_messages: int, *, at_once: bool = False) -> Any:
        """For `start_pull`; `at_once` asks for no more than there is at this moment."""
        return PullRequest.pb()(
            subscription=self.subscription, max_messages=max_messages, return_immediately=at_once or None
        )

    def acknowledge(self, ack_ids: Iterable[str]) -> Refused:
        """Acknowledge; what is refused for good comes again, and is counted."""
        kind = AcknowledgeRequest.pb()
        return self._send(self._acknowledge, partial(kind, subscription=self.subscription), ack_ids,
                          halfway="pull.half_acknowledged")  # fmt: skip

    def extend(
        self, ack_ids: Iterable[str], deadline: timedelta, goes_on: Callable[[], bool] = lambda: True
    ) -> Refused:
        """Give the leases `deadline` from now; zero gives the messages back at once.

        No request begins once it no longer `goes_on`; what is not sent then is not counted as refused.
        """
        seconds = int(deadline.total_seconds())
        request = partial(ModifyAckDeadlineRequest.pb(), subscription=self.subscription, ack_deadline_seconds=seconds)
        return self._send(self._modify, request, ack_ids, goes_on=goes_on)

    def give_back(self, ack_ids: Iterable[str]) -> Refused:
        return self.extend(ack_ids, timedelta(0))

    def close(self) -> None:
        if self._has_own_channel:
            self._channel.close()

    def start_pull(self, request: Any, wait: float) -> Any:
        """The call, whose answer may come up to a second after `wait`."""
        return self._pull.future(request, timeout=wait + min(wait, ANSWER_SECONDS))

    def with_retries(self, call: Callable[[], Any]) -> Any:
        """What the call gives, made again while it fails in passing; SourceError when it fails for good."""
        try:
            return self._retry(call)()
        except (grpc.RpcError, RetryError) as error:
            cause = error.cause if isinstance(error, RetryError) else error
            raise self.source_error_of(cause) from error

    def _method(self, name: str, request: Any, read: Callable[[bytes], Any] | None = None) -> Any:
        return self._channel.unary_unary(
            f"/google.pubsub.v1.Subscriber/{name}",
            request_serializer=request.SerializeToString,
            response_deserializer=read,
        )

    def _send(
        self,
        method: Any,
        request: Callable[..., Any],
        ack_ids: Iterable[str],
        halfway: str | None = None,
        goes_on: Callable[[], bool] = lambda: True,
    ) -> Refused:
        """All at once; requests that failed in passing again until patience ends, refused ones in halves."""
        sending = _Sending(method, request, list(_chunks(list(ack_ids), self._max_ack_ids)), halfway, goes_on)
        try:
            self._retry(sending.send)()
        except RetryError as error:
            sending.give_up(error.cause)
        return sending.refused

    def source_error_of(self, error: Any) -> SourceError:
        found, next_step = _FATAL.get(error.code(), (None, None))
        kind = SourceError if found else UnansweredError
        return kind(
            self.subscription,
            found=f"{found} ({error.details()})" if found else f"{place()} {status_text(error)}",
            expected=f"a subscription that can be pulled from {place()}",
            next_step=next_step or "Check that it can be reached from here; `lakehouse sandbox` starts a broker.",
        )


class PendingPull:
    """A pull under way. `at` is when it was sent.

    `unanswered_at` is when one of its calls last ended without an answer: what such a call took comes back by itself
    within an ack deadline, and nobody knows until then whether anything waits. `is_empty` says that the subscription
    answered that it has nothing.
    """

    def __init__(self, reader: SubscriptionReader, request: Any, deadline: float) -> None:
        self.at = reader.clock()
        self.unanswered_at: datetime | None = None
        self.is_empty = False
        self._reader, self._request, self._deadline = reader, request, deadline
        self._call = reader.start_pull(request, max(0.0, deadline - time.monotonic()))

    def page(self) -> Page | None:
        """What it brought, asked again while it brings nothing and there is time."""
        while True:
            page: Page | None = self._reader.with_retries(self._answer)
            if page is None:
                page = self._confirmation()
            if page is not None and len(page.messages):
                self.is_empty = False
                return page
            time.sleep(max(0.0, min(EMPTY_PAUSE, self._seconds_left())))
            if self._seconds_left() <= 0:
                return None
            self._call = self._reader.start_pull(self._request, self._seconds_left())

    def _answer(self) -> Page | None:
        """None when the server held the call for longer than we wait."""
        if self._call is None:
            self._call = self._reader.start_pull(self._request, max(self._seconds_left(), ANSWER_SECONDS))
        try:
            page: Page = self._call.result()
        except grpc.RpcError as error:
            self._call = None
            self.is_empty = False
            if is_passing(error):
                self.unanswered_at = self._reader.clock()
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                return None
            raise
        self.is_empty = not len(page.messages)
        return page

    def _confirmation(self) -> Page | None:
        """A server that holds an empty pull looks like a network that is silent: only an answer shows which it is.

        So it is asked once more for what there is at this moment.
        """
        now = type(self._request)()
        now.CopyFrom(self._request)
        now.return_immediately = True
        self.at = self._reader.clock()
        self._call = self._reader.start_pull(now, ANSWER_SECONDS)
        return self._answer_or_silence()

    def _answer_or_silence(self) -> Page | None:
        try:
            return self._answer()
        except grpc.RpcError as error:
            if is_passing(error):
                return None
            raise self._reader.source_error_of(error) from error

    def _seconds_left(self) -> float:
        return self._deadline - time.monotonic()


class _Unsent(Exception):
    """Some requests failed in passing; `cause` is why."""

    def __init__(self, cause: Any) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _Sending:
    """Requests about ack ids on their way: what is still to be sent, and what was refused for good."""

    def __init__(
        self,
        method: Any,
        request: Callable[..., Any],
        chunks: list[list[str]],
        halfway: str | None,
        goes_on: Callable[[], bool],
    ) -> None:
        self._method, self._request, self._waiting, self._halfway = method, request, chunks, halfway
        self._goes_on = goes_on
        self._splits_left = _MOST_SPLITS
        self.refused = Refused()

    def send(self) -> None:
        """Once each, side by side; _Unsent when some failed in passing, and are to be sent again."""
        while self._waiting and self._goes_on():
            calls = []
            for number, chunk in enumerate(self._waiting):
                if self._halfway and number and number == len(self._waiting) // 2:
                    failpoints.reach(self._halfway)
                request = self._request(ack_ids=chunk)
                calls.append((chunk, self._method.future(request, timeout=LONGEST_CALL.total_seconds())))
            passing, halves = [], []
            failure = None
            for chunk, call in calls:
                error = call.exception()
                if is_passing(error):
                    passing.append(chunk)
                    failure = error
                elif error is not None:
                    halves += self._halves(chunk, error)
            self._waiting = [*halves, *passing]
            if failure is not None:
                raise _Unsent(failure)

    def give_up(self, unsent: Any) -> None:
        for chunk in self._waiting:
            self._refuse(chunk, unsent.cause)
        self._waiting = []

    def _halves(self, chunk: list[str], error: Any) -> list[list[str]]:
        """A request is refused as a whole when it is too large, and for one bad id among many."""
        is_about_ids = error.code() == grpc.StatusCode.INVALID_ARGUMENT
        if not is_about_ids or len(chunk) == 1 or not self._splits_left:
            self._refuse(chunk, error)
            return []
        self._splits_left -= 1
        middle = len(chunk) // 2
        return [chunk[:middle], chunk[middle:]]

    def _refuse(self, chunk: list[str], error: Any) -> None:
        self.refused = Refused(self.refused.messages + len(chunk), status_text(error))


def is_passing(error: Any) -> bool:
    """Whether the same call may succeed a little later."""
    return isinstance(error, _Unsent) or (isinstance(error, grpc.RpcError) and error.code() in _PASSING)


def _chunks(ack_ids: list[str], most: int, most_bytes: int = MAX_REQUEST_BYTES) -> Iterator[list[str]]:
    """In order; each within both bounds, or of one id."""
    chunk: list[str] = []
    left = most_bytes
    for ack_id in ack_ids:
        size = len(ack_id.encode()) + 4  # field number and length come before each
        if chunk and (len(chunk) == most or size > left):
            yield chunk
            chunk, left = [], most_bytes
        chunk.append(ack_id)
        left -= size
    if chunk:
        yield chunk
