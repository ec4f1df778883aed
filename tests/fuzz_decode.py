"""A fuzzer of decoding: any payload is decoded or rejected, alike on both paths, within time and memory.

    python -m tests.fuzz_decode [--seconds N] [--first SEED]

Pages are decoded in a process of its own, since what is looked for is its death: a crash in native code, a hang, memory
that grows. The seed, the topic and the page that failed are printed; put its payload into `fuzz_seeds.json`, which the
tests replay.
"""

from __future__ import annotations

import argparse
import base64
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa

from lakehouse.decode.events import decode, decode_by_message
from lakehouse.schemas import DELIVERED
from lakehouse.topics import Topic
from tests import fuzz_payloads

SEEDS = Path(__file__).with_name("fuzz_seeds.json")
SECONDS_A_PAGE = 20.0
"""The largest pages hold some 100 kB and take milliseconds; the rest is room for a busy machine."""
MEMORY_BYTES = 6 * 1024**3
"""Of address space: Arrow reserves much of it and uses little."""
_PAGES_A_PROCESS = 200


class Failed(AssertionError):
    """A page killed the process, took too long, or was read in two ways."""


def decode_pages(first: int, pages: int) -> None:
    """Decode the pages of so many seeds in a process with limits; Failed with the seed that ended it."""
    _run(["pages", str(first), str(pages)], timeout=60 + SECONDS_A_PAGE)


def decode_kept(seeds: Sequence[dict[str, Any]]) -> None:
    """Decode kept payloads, each alone and between others, in one process; Failed names the one that ended it."""
    _run(["kept", json.dumps(seeds)], timeout=SECONDS_A_PAGE + 20)


def _run(arguments: Sequence[str], timeout: float) -> None:
    command = [sys.executable, "-m", "tests.fuzz_decode", "--worker", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        output = process.communicate()[0] + "\nIt did not end."
    if process.returncode:
        raise Failed(f"exit code {process.returncode}: {output[-3000:]}")


def _work(kind: str, *arguments: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if kind == "kept":
        usual = b'{"id":"e","t":"2026-11-23T05:30:00Z"}'
        for seed in json.loads(arguments[0]):
            print(seed["what"], flush=True)
            raw, topic = base64.b64decode(seed["payload"]), fuzz_payloads.topic_with(seed["topic"])
            for page in ([raw], [usual, raw, usual]):
                check(topic, page)
        return
    first, pages = map(int, arguments)
    topics = fuzz_payloads.topics()
    for seed in range(first, first + pages):
        random = Random(seed)
        topic = random.choice(topics)
        page = fuzz_payloads.page(random, topic)
        print(f"seed {seed}", flush=True)
        started = time.monotonic()
        try:
            check(topic, page)
        except AssertionError:
            print(topic.fields, *(payload[:2000] for payload in _smallest(topic, page)), sep="\n")
            raise
        if time.monotonic() - started > SECONDS_A_PAGE:
            raise Failed(f"seed {seed} took {time.monotonic() - started:.1f} s")


def check(topic: Topic, payloads: Sequence[bytes]) -> None:
    """Both paths give the same columns and counts; AssertionError otherwise."""
    messages = delivered(payloads)
    fast, exact = decode(messages, topic), decode_by_message(messages, topic)
    fast.columns.validate(full=True)
    assert repr(fast.columns.to_pylist()) == repr(exact.columns.to_pylist()), "columns differ"
    assert fast.undeclared == exact.undeclared, f"counts differ: {fast.undeclared} {exact.undeclared}"


def _smallest(topic: Topic, page: list[bytes]) -> list[bytes]:
    """The page without the payloads that do not matter."""
    kept = list(page)
    for payload in page:
        fewer = [each for each in kept if each is not payload]
        try:
            check(topic, fewer)
        except AssertionError:
            kept = fewer
    return kept


def delivered(payloads: Sequence[bytes]) -> pa.RecordBatch:
    count = len(payloads)
    published = datetime(2026, 11, 23, 6, tzinfo=UTC)
    known = {
        "message_id": [f"m{n}" for n in range(count)],
        "publish_time": [published] * count,
        "attributes": [[("id", "a")]] * count,
        "payload": list(payloads),
    }
    columns = [known.get(name, [None] * count) for name in DELIVERED.names]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, DELIVERED, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=DELIVERED)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.fuzz_decode", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600, help="how long to go on (%(default)s)")
    parser.add_argument("--first", type=int, default=int(time.time()), help="first seed (the time)")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return _work(*arguments.worker)
    deadline, seed = time.monotonic() + arguments.seconds, arguments.first
    while time.monotonic() < deadline:
        decode_pages(seed, _PAGES_A_PROCESS)
        seed += _PAGES_A_PROCESS
    print(f"fuzz: pages={seed - arguments.first} seconds={arguments.seconds:g} first={arguments.first}")


if __name__ == "__main__":
    main()
