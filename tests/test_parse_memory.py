"""What decoding a page takes of memory, at most: a multiple of the page's bytes, whatever is in it."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from lakehouse.decode.events import decode
from tests.fuzz_decode import delivered
from tests.fuzz_payloads import topic_with

TIMES_THE_PAGE = 40
"""Of address space: a document of empty objects takes most, a Python dict of 64 bytes for its three characters."""
ROOM_BYTES = 192 * 1024**2
"""Arrow and malloc reserve address space in large pieces, and use little of it."""


def payload(value: bytes, name: bytes = b"other") -> bytes:
    return b'{"id":"e","t":"2026-11-23T05:30:00Z","%s":%s}' % (name, value)


def adversarial() -> dict[str, list[bytes]]:
    keys = [payload(b"{%s}" % b",".join(b'"k%d":1' % n for n in range(20_000))), payload(b"1")]
    return {
        "deep": [payload(b"[" * 2_000_000)],
        "flat brackets": [payload(b"[" + b"{}," * 1_000_000 + b"1]")],
        "keys in one message": keys,
        "keys of their own": [payload(b"1", b"key%d" % n) for n in range(20_000)],
        "a long integer": [payload(b"9" * 3_000_000, b"x")],
        "a long fraction": [payload(b"0." + b"1" * 3_000_000, b"x")],
        "a large exponent": [payload(b"1e-999999999", b"x")] * 1_000,
        "long text": [payload(b'"%s"' % (b"a" * 10_000_000), b"x")],
        "long escaped text": [payload(b'"%s"' % (rb"\u0061" * 1_500_000), b"x")],
        "long map": [payload(keys[0][keys[0].index(b'{"k') : -1], b"tags")],
    }


def decode_all() -> None:
    """In a process of its own, since a limit that is set stays."""
    fields = {"x": "decimal(38,18)", "tags": "map<string, bigint>", "n": "double"}
    topic = topic_with({"fields": fields})
    decode(delivered([payload(b"1")] * 1_000), topic)
    for name, page in adversarial().items():
        messages, size = delivered(page), sum(map(len, page))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = used + ROOM_BYTES + TIMES_THE_PAGE * size
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        print(f"{name}: {size} bytes", flush=True)
        assert decode(messages, topic).columns.num_rows == len(page)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_memory_is_a_multiple_of_the_page_whatever_is_in_it() -> None:
    command = [sys.executable, "-c", "from tests.test_parse_memory import decode_all; decode_all()"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]
