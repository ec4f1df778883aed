"""Decoding in another process, for messages that may have killed the one before.

A payload that crashes a library, takes all memory or never ends would kill its slot again at every attempt. So after a
death the slot decodes in a child process: when the child dies the page is halved, until the messages that kill it
are alone. Those are rejected as `KILLS_THE_DECODER`, with their payload as delivered; all others are decoded.
"""

from __future__ import annotations

import logging
import os
import pickle
import select
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from lakehouse.decode.events import Decoded, Schemas, decode
from lakehouse.errors import SourceError
from lakehouse.landing import decoding_process
from lakehouse.landing.decoding_process import READY, next_bytes, send
from lakehouse.landing.segments import Decoder
from lakehouse.schemas import decoded_schema
from lakehouse.topics import Topic

log = logging.getLogger(__name__)

KILLS_THE_DECODER = "kills the decoder"
_LONGEST = timedelta(seconds=60)
"""For one page of at most a few MiB, which takes milliseconds."""
_STARTS_WITHIN = timedelta(seconds=60)
_MEMORY_BYTES = 4 * 1024**3
"""Address space of the child; a page of 10 MB needs a tenth of that."""


class QuarantiningDecoder:
    """A `Decoder` while its context is open. Not for several threads.

    `decoder` is what the child calls, as `module:function`. An exception there counts as a death: the message would
    fail its slot for ever. SourceError when a child cannot even start, ImportError when it lacks a package.
    """

    def __init__(
        self,
        decoder: str = f"{decode.__module__}:{decode.__name__}",
        longest: timedelta = _LONGEST,
        memory_bytes: int = _MEMORY_BYTES,
    ) -> None:
        self._decoder, self._longest, self._memory_bytes = decoder, longest, memory_bytes
        self._child: _Child | None = None

    def __enter__(self) -> Decoder:
        return self._decode

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_child()

    def _decode(self, messages: pa.RecordBatch, topic: Topic, schemas: Schemas | None = None) -> Decoded:
        """As `decode`; the parts in their order."""
        decoded = self._decoded(messages, topic, schemas)
        if decoded is not None:
            return decoded
        if len(messages) == 1:
            log.warning(
                "quarantine: topic=%s message_id=%s bytes=%d reason=%s",
                *(topic.name, messages.column("message_id")[0], messages.nbytes, KILLS_THE_DECODER),
            )
            return _rejection(topic)
        middle = len(messages) // 2
        halves = [self._decode(part, topic, schemas) for part in (messages.slice(0, middle), messages.slice(middle))]
        columns = pa.concat_batches([half.columns for half in halves])
        return Decoded(columns, halves[0].undeclared + halves[1].undeclared)

    def _decoded(self, messages: pa.RecordBatch, topic: Topic, schemas: Schemas | None) -> Decoded | None:
        """None when the child died of it."""
        if self._child is None:
            self._child = _Child(self._decoder, self._memory_bytes)
        alone = messages.take(pa.array(np.arange(len(messages))))  # a slice is pickled with all that it was cut from
        answer = self._child.answer((alone, topic, schemas is not None), self._longest)
        while schemas is not None and isinstance(answer, Counter):
            answer = self._child.answer(self._known(answer, schemas), self._longest)
        if isinstance(answer, Decoded):
            return answer
        if isinstance(answer, ImportError):
            raise answer
        self._end_child()
        return None

    def _known(self, named: Counter[str], schemas: Schemas) -> dict[str, str]:
        """A child that gets no answer would take the next page for one."""
        try:
            return dict(schemas(named))
        except BaseException:
            self._end_child()
            raise

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None


class _Child:
    """A process that decodes what it is sent; its side is `decoding_process`."""

    def __init__(self, decoder: str, memory_bytes: int) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", decoding_process.__name__, decoder, str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        if self._read(_STARTS_WITHIN) != READY:
            self.end()
            raise SourceError(
                "decoding in a process of its own",
                found=f"a process that did not start (exit code {self._process.returncode})",
                expected="a second Python beside this one",
                next_step="See the executor's log; give executors more memory if that is what it lacks.",
            )

    def answer(self, request: Any, longest: timedelta) -> Any:
        """What it answers; None when it died, raised or took longer."""
        content = pickle.dumps(request)
        try:
            send(self._process.stdin, content)
        except BrokenPipeError:
            return None
        answered = self._read(longest)
        return pickle.loads(answered) if answered is not None else None

    def end(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except BrokenPipeError:
                continue
        self._process.wait()

    def _read(self, longest: timedelta) -> bytes | None:
        pipe = self._process.stdout
        assert pipe is not None
        ready, _, _ = select.select([pipe], [], [], longest.total_seconds())
        return next_bytes(pipe) if ready else None


def _rejection(topic: Topic) -> Decoded:
    row = {"event_id": None, "event_time": None, "event": None, "reject_reason": KILLS_THE_DECODER}
    return Decoded(pa.RecordBatch.from_pylist([row], schema=decoded_schema(topic)), Counter())
