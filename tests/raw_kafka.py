"""Messages as the Python client cannot write them, by librdkafka itself, to a mock cluster of its own."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import confluent_kafka

_PRODUCER = 0
_END, _TOPIC, _PARTITION, _VALUE, _FLAGS, _TIMESTAMP, _HEADERS = 0, 1, 3, 4, 7, 8, 10
_COPY = 2
_POINTERS = (
    "rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new", "rd_kafka_headers_new",
)  # fmt: skip


def library() -> Any:
    """The client's own librdkafka; None where its wheel has it elsewhere."""
    found = next(Path(confluent_kafka.__file__).parent.parent.glob("confluent_kafka.libs/librdkafka-*"), None)
    if found is None:
        return None
    loaded = ctypes.CDLL(str(found))
    for name in _POINTERS:
        getattr(loaded, name).restype = ctypes.c_void_p
    loaded.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    return loaded


@dataclass
class RawKafka:
    """A cluster of one broker with the topic `plays`, of one partition."""

    library: Any
    bootstrap: str
    producer: ctypes.c_void_p

    def publish(self, headers: Sequence[tuple[bytes, bytes]], millis: int) -> None:
        made = ctypes.c_void_p(self.library.rd_kafka_headers_new(ctypes.c_size_t(len(headers))))
        for name, value in headers:
            sizes = ctypes.c_ssize_t(len(name)), ctypes.c_ssize_t(len(value))
            self.library.rd_kafka_header_add(made, name, sizes[0], value, sizes[1])
        part, size = ctypes.c_int32(0), ctypes.c_size_t(1)
        said = [_TOPIC, b"plays", _PARTITION, part, _VALUE, b"v", size, _FLAGS, _COPY]
        said += [_TIMESTAMP, ctypes.c_int64(millis), _HEADERS, made, _END]
        assert self.library.rd_kafka_producev(self.producer, *said) == 0
        assert self.library.rd_kafka_flush(self.producer, 10_000) == 0


@contextmanager
def raw_kafka(loaded: Any) -> Iterator[RawKafka]:
    host = _client(loaded, {})
    cluster = ctypes.c_void_p(loaded.rd_kafka_mock_cluster_new(host, 1))
    bootstrap = loaded.rd_kafka_mock_cluster_bootstraps(cluster).decode()
    loaded.rd_kafka_mock_topic_create(cluster, b"plays", 1, 1)
    producer = _client(loaded, {"bootstrap.servers": bootstrap})
    try:
        yield RawKafka(loaded, bootstrap, producer)
    finally:
        loaded.rd_kafka_destroy(producer)
        loaded.rd_kafka_mock_cluster_destroy(cluster)
        loaded.rd_kafka_destroy(host)


def _client(loaded: Any, settings: dict[str, str]) -> ctypes.c_void_p:
    said = ctypes.create_string_buffer(500)
    size = ctypes.c_size_t(500)
    made = ctypes.c_void_p(loaded.rd_kafka_conf_new())
    for name, value in {"log_level": "0", **settings}.items():
        assert loaded.rd_kafka_conf_set(made, name.encode(), value.encode(), said, size) == 0, said.value
    client = loaded.rd_kafka_new(_PRODUCER, made, said, size)
    assert client, said.value
    return ctypes.c_void_p(client)
