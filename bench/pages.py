"""A synthetic Pub/Sub: answers Pull with prepared bytes, so that what is measured is only our side.

python -m bench.pages PAGES    # prints its port; serves that many pages for each line on standard input
"""

from __future__ import annotations

import json
import sys
import threading
from concurrent import futures
from typing import Any

import grpc
from google.pubsub_v1.types import PullRequest, PullResponse, Subscription

PAGE = 1_000
_DISTINCT = 64
"""Pages that are prepared; they are served again and again."""


def payload(number: int) -> bytes:
    """About 350 bytes of JSON with 7 declared fields, an id, a time and some padding."""
    return json.dumps(
        {
            "event_id": f"{(number * 2654435761) % (1 << 64):016x}-{number:012d}",
            "played_at": f"2026-01-01T05:{number % 60:02d}:{number % 59:02d}.{number % 1000:03d}Z",
            "user": f"user{(number * 7919) % 1_000_000}",
            "country": ("SE", "US", "DE", "BR")[number % 4],
            "track": f"spotify:track:{(number * 104729) % (1 << 80):020x}",
            "ms": number % 300_000,
            "score": number / 7,
            "shuffled": bool(number & 1),
            "context": f"spotify:playlist:{(number * 15485863) % (1 << 90):070x}",
        }
    ).encode()


def page(number: int) -> bytes:
    """One PullResponse of `PAGE` messages."""
    answer = PullResponse.pb()()
    for place in range(number * PAGE, (number + 1) * PAGE):
        entry = answer.received_messages.add()
        entry.ack_id = f"projects/bench/{place:020d}/" + "a" * 150
        entry.message.data = payload(place)
        entry.message.message_id = str(10**16 + place)
        entry.message.publish_time.seconds = 1_767_243_600 + place // 1_000
    return answer.SerializeToString()


class Pages:
    """Hands out pages until the number that was released is used up."""

    def __init__(self) -> None:
        self._prepared = [page(number) for number in range(_DISTINCT)]
        self._left = 0
        self._served = 0
        self._lock = threading.Lock()

    def release(self, pages: int) -> None:
        with self._lock:
            self._left += pages

    def pull(self, request: Any, context: Any) -> bytes:
        with self._lock:
            if not self._left:
                return b""
            self._left -= 1
            self._served += 1
            return self._prepared[self._served % _DISTINCT]


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


def main() -> None:
    pages = Pages()
    server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers([_handlers(pages)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    for line in sys.stdin:
        pages.release(int(line))
    server.stop(None)


if __name__ == "__main__":
    main()
