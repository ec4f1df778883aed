"""A synthetic Pub/Sub: answers Pull with prepared bytes, so that what is measured is only our side.

python -m bench.pages    # prints its port; serves what lines `SUBSCRIPTION PAGES [KIND]` on standard input release

Kinds are those of `KINDS`, and `avro` and `protobuf`: the events on time in those formats. Of a subscription that is
`gone` nothing is served any more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import IO, Any

import grpc
from google.pubsub_v1.types import PullRequest, PullResponse, Subscription

from bench import formats

PAGE = 1_000
MODULE = "bench.pages"
DISTINCT = 64 * PAGE
"""Messages that are prepared; they are served again and again, each time with ids of their own."""
KINDS = {"on time": "05", "late": "02"}
"""The hour of the events of each kind; beside them there is `large`: messages of `LARGE_BYTES`."""
LARGE_BYTES = 9 * 1024**2
_ANSWER_SECONDS = 0.1
_MARK = b"@@@@@@@@"
"""In every id, replaced by how often its page was served."""


def payload(number: int, hour: str = "05") -> bytes:
    """About 350 bytes of JSON with 7 declared fields, an id and a time. Message `number` of any is the same."""
    return _payload(number % DISTINCT, hour).replace(_MARK, _round(number // DISTINCT))


def _payload(number: int, hour: str) -> bytes:
    return json.dumps(
        {
            "event_id": f"{(number * 2654435761) % (1 << 64):016x}-{_MARK.decode()}{number:06d}",
            "played_at": f"2026-01-01T{hour}:{number % 60:02d}:{number % 59:02d}.{number % 1000:03d}Z",
            "user": f"user{(number * 7919) % 1_000_000}",
            "country": ("SE", "US", "DE", "BR")[number % 4],
            "track": f"spotify:track:{(number * 104729) % (1 << 80):020x}",
            "ms": number % 300_000,
            "score": number / 7,
            "shuffled": bool(number & 1),
            "context": f"spotify:playlist:{(number * 15485863) % (1 << 90):070x}",
        }
    ).encode()


def _round(number: int) -> bytes:
    return b"%08d" % number


def _as_json(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode()


def _page(number: int, hour: str, written: Callable[[dict[str, Any]], bytes] = _as_json) -> bytes:
    """One PullResponse of `PAGE` messages."""
    answer = PullResponse.pb()()
    for place in range(number * PAGE, (number + 1) * PAGE):
        entry = answer.received_messages.add()
        entry.ack_id = f"projects/bench/{place:020d}/" + "a" * 150
        entry.message.data = written(json.loads(_payload(place, hour)))
        entry.message.message_id = f"{_MARK.decode()}{place:08d}"
        entry.message.publish_time.seconds = 1_767_247_200 + place // 1_000  # from 2026-01-01T06 on
    content: bytes = answer.SerializeToString()
    return content


def _large_page() -> bytes:
    """One PullResponse of a message of 9 MB."""
    answer = PullResponse.pb()()
    entry = answer.received_messages.add()
    entry.ack_id = "projects/bench/large/" + "a" * 150
    entry.message.data = _payload(0, "05")[:-1] + b', "undeclared": "' + b"x" * LARGE_BYTES + b'"}'
    entry.message.message_id = f"{_MARK.decode()}{0:08d}"
    entry.message.publish_time.seconds = 1_767_247_200
    content: bytes = answer.SerializeToString()
    return content


class Pages:
    """Hands out pages until what was released for a subscription is used up."""

    def __init__(self) -> None:
        self._prepared = {
            kind: [_page(number, hour) for number in range(DISTINCT // PAGE)] for kind, hour in KINDS.items()
        }
        self._prepared["large"] = [_large_page()] * (DISTINCT // PAGE)
        self._gone: set[str] = set()
        self._left: dict[str, deque[tuple[str, int]]] = {}
        self._served = 0
        self._lock = threading.Lock()

    def release(self, subscription: str, pages: int, kind: str) -> None:
        """Late ones are of three hours before the others."""
        if kind in formats.WRITTEN and kind not in self._prepared:
            pages_of_kind = [_page(number, "05", formats.WRITTEN[kind]) for number in range(DISTINCT // PAGE)]
            self._prepared[kind] = pages_of_kind
        with self._lock:
            if kind == "gone":
                self._gone.add(subscription)
            else:
                self._left.setdefault(subscription, deque()).append((kind, pages))

    def pull(self, request: Any, context: Any) -> bytes:
        with self._lock:
            if request.subscription in self._gone:
                context.abort(grpc.StatusCode.NOT_FOUND, "Subscription does not exist")
            released = self._left.get(request.subscription)
            if not released or not context.is_active() or context.time_remaining() < _ANSWER_SECONDS:
                return b""
            kind, pages = released.popleft()
            if pages > 1:
                released.appendleft((kind, pages - 1))
            context.add_callback(lambda: self._take_back(request.subscription, kind, context))
            times, page = divmod(self._served, DISTINCT // PAGE)
            self._served += 1
        return self._prepared[kind][page].replace(_MARK, _round(times))

    def _take_back(self, subscription: str, kind: str, context: Any) -> None:
        """A page whose client had given up the call: nothing else is delivered again, and nothing is to be lost."""
        if context._state.client == "cancelled":
            with self._lock:
                self._left[subscription].append((kind, 1))


def _handlers(pages: Pages) -> grpc.GenericRpcHandler:
    subscription = Subscription.pb()(name="projects/bench/subscriptions/plays", ack_deadline_seconds=60)
    deadline = subscription.SerializeToString()

    def answered(answer: Any, reads: Any = lambda request: request) -> Any:
        return grpc.unary_unary_rpc_method_handler(answer, request_deserializer=reads)

    methods = {
        "Pull": answered(pages.pull, PullRequest.pb().FromString),
        "Acknowledge": answered(lambda request, context: b""),
        "ModifyAckDeadline": answered(lambda request, context: b""),
        "GetSubscription": answered(lambda request, context: deadline),
    }
    return grpc.method_handlers_generic_handler("google.pubsub.v1.Subscriber", methods)


class Served:
    """The server, in a process of its own, as its user sees it."""

    def __init__(self, channel: IO[str]) -> None:
        self._channel = channel

    def release(self, subscription: str, messages: int, kind: str = "on time") -> None:
        """A multiple of `PAGE`; of kind `large` each thousand is one message."""
        self._channel.write(f"{subscription} {messages // PAGE} {kind}\n")
        self._channel.flush()


@contextmanager
def served() -> Iterator[Served]:
    """Until the end of the block PUBSUB_EMULATOR_HOST names the server."""
    process = subprocess.Popen([sys.executable, "-m", MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    os.environ["PUBSUB_EMULATOR_HOST"] = f"127.0.0.1:{process.stdout.readline().strip()}"
    try:
        yield Served(process.stdin)
    finally:
        process.stdin.close()
        process.wait(10)


def main() -> None:
    pages = Pages()
    server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers([_handlers(pages)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    for line in sys.stdin:
        subscription, number, kind = line.strip().split(" ", 2)
        pages.release(subscription, int(number), kind)
    server.stop(None)


if __name__ == "__main__":
    main()
