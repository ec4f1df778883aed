"""Decoders that do to their process what a library's bug does, for tests that die of it."""

from __future__ import annotations

import os
import signal
import time

import pyarrow as pa

from lakehouse.decode.events import Decoded, Schemas, decode
from lakehouse.topics import Topic


def deadly(messages: pa.RecordBatch, topic: Topic, schemas: Schemas | None) -> Decoded:
    """Killed by SIGKILL (as when memory ends), a segmentation fault, an endless loop or an exception."""
    for payload in messages.column("payload").to_pylist():
        if b"KILL" in payload:
            os.kill(os.getpid(), signal.SIGKILL)
        if b"SEGV" in payload:
            os.kill(os.getpid(), signal.SIGSEGV)
        if b"HANG" in payload:
            time.sleep(1000)
        if b"RAISE" in payload:
            raise OverflowError("nobody foresaw it")
    return decode(messages, topic, schemas)


def without_fastavro(messages: pa.RecordBatch, topic: Topic, schemas: Schemas | None) -> Decoded:
    raise ModuleNotFoundError("No module named 'fastavro'", name="fastavro")
