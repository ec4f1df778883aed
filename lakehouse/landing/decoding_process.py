"""A process that decodes what it is sent, and may die of it: the child of a `QuarantiningDecoder`.

Each request and each answer is a pickle with its length before it. It knows no registry: which schemas
its messages name is a question to its parent, a Counter in the place of an answer. What is imported here is paid for at
every death, so it is only what decoding needs.
"""

from __future__ import annotations

import importlib
import os
import pickle
import resource
import struct
import sys
from collections import Counter
from collections.abc import Mapping
from typing import IO, Any

from lakehouse.errors import in_one_line

READY = b"ready"
_LENGTH = struct.Struct(">Q")


def serve(decoder: str, memory_bytes: int) -> None:
    """Decode by `decoder`, which is `module:function`, until the parent closes the pipe."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    module, _, name = decoder.partition(":")
    decode_page = getattr(importlib.import_module(module), name)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    send(answers, READY)

    def schemas(named: Mapping[str, int]) -> Mapping[str, str]:
        send(answers, pickle.dumps(Counter(named)))
        known = next_bytes(sys.stdin.buffer)
        if known is None:
            raise EOFError("the parent is gone")
        texts: dict[str, str] = pickle.loads(known)
        return texts

    while (request := next_bytes(sys.stdin.buffer)) is not None:
        messages, topic, has_registry = pickle.loads(request)
        try:
            decoded: Any = decode_page(messages, topic, schemas if has_registry else None)
        except ImportError as missing:  # of this machine's packages, and of no message
            decoded = missing
        except Exception as error:
            said = f"{type(error).__name__}: {in_one_line(error)}"
            print(f"quarantine: messages={len(messages)} error={said}", file=sys.stderr)
            decoded = None
        send(answers, pickle.dumps(decoded))


def send(pipe: IO[bytes] | None, content: bytes) -> None:
    assert pipe is not None
    pipe.write(_LENGTH.pack(len(content)) + content)
    pipe.flush()


def next_bytes(pipe: IO[bytes]) -> bytes | None:
    """None when the other side is gone."""
    length = pipe.read(_LENGTH.size)
    if len(length) < _LENGTH.size:
        return None
    size = _LENGTH.unpack(length)[0]
    content = pipe.read(size)
    return content if len(content) == size else None


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
