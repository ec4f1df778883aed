"""Compressed payloads: read as if they were not, bounded, and refused with the reason."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.decode import compression
from lakehouse.decode.events import decode, decode_by_message
from lakehouse.operations.replay import REASONS
from lakehouse.topics import Topic, topic_from
from tests.conftest import PLAYS
from tests.examples import examples
from tests.test_parse import PLAY, delivered, play, read, rows_of

LIMIT = 4096


def zipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def zstd(content: bytes) -> bytes:
    compressed: bytes = pa.Codec("zstd").compress(content, asbytes=True)
    return compressed


def zstd_stream(content: bytes) -> bytes:
    """A frame that does not say its size, as publishers that stream write it."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    written: bytes = sink.getvalue().to_pybytes()
    return written


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {"gzip": zipped, "zstd": zstd}


@pytest.mark.parametrize("coding", COMPRESSORS)
def test_a_compressed_payload_is_the_event_that_it_was(coding: str, topic_with: Callable[..., Topic]) -> None:
    rows = rows_of(topic_with(compression=coding), *(COMPRESSORS[coding](play(n=number)) for number in range(300)))
    assert [row["event"]["n"] for row in rows] == list(range(300))


@pytest.mark.parametrize("name", compression.CONTENT_ENCODING)
def test_a_message_s_own_content_encoding_decides(name: str, topic_with: Callable[..., Topic]) -> None:
    payloads = [play(n=1), zipped(play(n=2)), zstd(play(n=3)), play(n=4), zipped(play(n=5)), play(n=6)]
    named = [{name: text} for text in ("identity", "GZIP", " zstd ", "")]
    messages = delivered(payloads, [*named, {name: "x-gzip"}, {name: "br"}])
    rows = read(topic_with(compression="zstd"), messages).columns.to_pylist()
    assert [row["event"] and row["event"]["n"] for row in rows] == [1, 2, 3, 4, 5, None]
    assert rows[5]["reject_reason"] == "not decompressed: unknown content-encoding"


def test_one_compressed_message_does_not_change_how_the_others_are_read(topic: Topic) -> None:
    messages = delivered([play(n=1), zipped(play(n=2)), zstd(play(n=3))], [{}, {"content-encoding": "gzip"}, {}])
    rows = read(topic, messages).columns.to_pylist()
    assert [row["reject_reason"] for row in rows] == [None, None, "compressed (zstd)"]


ZIPPED, FRAME, LARGE = zipped(play()), zstd(play()), play(user="x" * LIMIT)
WRONG_CHECKSUM = ZIPPED[:-8] + bytes([ZIPPED[-8] ^ 1]) + ZIPPED[-7:]


@pytest.mark.parametrize(
    ("coding", "payload", "why"),
    [
        ("gzip", play(), "not gzip"),
        ("gzip", FRAME, "not gzip"),
        ("gzip", zlib.compress(play()), "not gzip"),
        ("gzip", ZIPPED[:-1], "gzip that is cut off"),
        ("gzip", ZIPPED[:5], "gzip that is cut off"),
        ("gzip", WRONG_CHECKSUM, "damaged gzip"),
        ("gzip", ZIPPED + b"{}" * 9, "not gzip"),
        ("gzip", zipped(LARGE), f"more than {LIMIT} bytes"),
        ("gzip", zipped(play()) + zipped(b" " * LIMIT), f"more than {LIMIT} bytes"),
        ("zstd", play(), "not zstd"),
        ("zstd", ZIPPED, "not zstd"),
        ("zstd", FRAME[:-1], "zstd that is cut off"),
        ("zstd", FRAME[:3], "zstd that is cut off"),
        ("zstd", FRAME + b"xxxx", "damaged zstd"),
        ("zstd", FRAME[:8] + b"\xff" * (len(FRAME) - 8), "damaged zstd"),
        ("zstd", zstd(LARGE), f"more than {LIMIT} bytes"),
        ("zstd", zstd_stream(LARGE), f"more than {LIMIT} bytes"),
        ("zstd", zstd(play()) + zstd(b" " * LIMIT), f"more than {LIMIT} bytes"),
    ],
)
def test_what_cannot_be_decompressed_is_rejected_with_the_reason(
    coding: str, payload: bytes, why: str, topic_with: Callable[..., Topic]
) -> None:
    topic = topic_with(compression=coding, max_decompressed_bytes=LIMIT)
    clean = COMPRESSORS[coding](play())
    reasons = [row["reject_reason"] for row in rows_of(topic, clean, payload, clean)]
    assert reasons == [None, f"not decompressed: {why}", None]
    assert reasons[1].partition(":")[0] in REASONS


@pytest.mark.parametrize(
    ("coding", "payload"),
    [
        ("gzip", zipped(b"{}")[:0]),
        ("gzip", None),
        ("zstd", b""),
    ],
)
def test_a_message_without_payload_has_none_to_decompress(
    coding: str, payload: bytes | None, topic_with: Callable[..., Topic]
) -> None:
    topic = topic_with(compression=coding, event_id="attributes.id", event_time="attributes.at")
    messages = delivered([payload], [{"id": "e", "at": PLAY["played_at"]}])
    assert read(topic, messages).columns.to_pylist()[0]["reject_reason"] is None


def test_several_members_and_frames_are_one_payload(topic_with: Callable[..., Topic]) -> None:
    """As `cat a.gz b.gz` is; and a frame that does not say its size is read, too."""
    halves = play(n=7)[:20], play(n=7)[20:]
    members = b"".join(map(zipped, halves)) + b"\0" * 9
    assert rows_of(topic_with(compression="gzip"), members)[0]["event"]["n"] == 7
    frames = b"".join(map(zstd, halves))
    rows = rows_of(topic_with(compression="zstd"), frames, zstd_stream(play(n=8)), zstd(play(n=9)))
    assert [row["event"]["n"] for row in rows] == [7, 8, 9]


@pytest.mark.timeout(20)
def test_a_payload_of_very_many_members_is_read_in_the_time_of_its_bytes(topic_with: Callable[..., Topic]) -> None:
    """A second; minutes where the rest of the payload is copied for each of them."""
    members = (zipped(b"") + b"\0") * 200_000 + zipped(play(n=7))
    assert rows_of(topic_with(compression="gzip"), members)[0]["event"]["n"] == 7


@pytest.mark.parametrize("size", [4095, 4096, 4097, 300_000])
def test_members_of_any_size_are_read_to_their_ends(size: int, topic_with: Callable[..., Topic]) -> None:
    content = play(n=7)
    padding = random.Random(size).randbytes(size).hex().encode()  # does not compress to nothing
    one = content[:-1] + b', "padding": "' + padding + b'"}'
    topic = topic_with(compression="gzip", max_decompressed_bytes=1_000_000)
    halves = zipped(one[: size // 2]) + b"\0" + zipped(one[size // 2 :])
    rows = rows_of(topic, zipped(one), halves, halves[:-9])
    assert [row["event"] and row["event"]["n"] for row in rows] == [7, 7, None]
    assert rows[2]["reject_reason"] == "not decompressed: gzip that is cut off"


def test_a_frame_that_claims_the_next_message_for_its_data_gets_nothing_of_it(
    topic_with: Callable[..., Topic],
) -> None:
    """Frames are read together: one whose block goes on into the next would else be read with that one's event."""
    victim = zstd(play(n=1))
    claimed_bytes = len(victim)
    thief = b"\x28\xb5\x2f\xfd" + bytes([0x20, claimed_bytes]) + (claimed_bytes << 3 | 1).to_bytes(3, "little")
    rows = rows_of(topic_with(compression="zstd"), zstd(play(n=0)), thief, victim)
    assert [row["event"] and row["event"]["n"] for row in rows] == [0, None, 1]
    assert rows[1]["reject_reason"] == "not decompressed: zstd that is cut off"


@pytest.mark.parametrize("coding", COMPRESSORS)
def test_a_page_of_bombs_is_unpacked_a_part_at_a_time(
    coding: str, monkeypatch: pytest.MonkeyPatch, topic_with: Callable[..., Topic]
) -> None:
    monkeypatch.setattr(compression, "_PART_BYTES", 3 * LIMIT)
    topic = topic_with(compression=coding)
    messages = delivered([COMPRESSORS[coding](play(n=number) + b" " * LIMIT) for number in range(10)])
    sizes = [part.messages.column("payload").nbytes for part in compression.parts(messages, topic)]
    assert len(sizes) == 4
    assert max(sizes) < 4 * LIMIT
    assert decode(messages, topic).columns.equals(decode_by_message(messages, topic).columns)


contents = st.one_of(
    st.builds(lambda number: play(n=number), st.integers(0, 9)),
    st.binary(max_size=30),
    st.sampled_from([b"", b"{}", b'{"new": 1}', play(n="x"), play(user="u" * 300)]),
)


@st.composite
def payloads(draw: st.DrawFn) -> tuple[bytes | None, dict[str, str]]:
    """A payload as one publisher or another compresses it, sometimes cut off or changed in one byte."""
    compress = draw(st.sampled_from([zipped, zstd, zstd_stream, bytes]))
    payload = compress(draw(contents))
    if payload and draw(st.booleans()):
        place = draw(st.integers(0, len(payload) - 1))
        change = draw(st.integers(0, 255))
        payload = payload[:place] + draw(st.sampled_from([b"", bytes([change]) + payload[place + 1 :]]))
    coding = draw(st.sampled_from([None, "gzip", "zstd", "identity", "br"]))
    return payload, {} if coding is None else {"content-encoding": coding}


@settings(max_examples=examples(300), deadline=None, derandomize=True, database=None)
@given(st.lists(payloads(), max_size=8), st.sampled_from(["none", "gzip", "zstd"]))
def test_any_page_is_decompressed_as_by_message(page: list[tuple[bytes | None, dict[str, str]]], coding: str) -> None:
    topic = topic_from("plays", {**PLAYS, "compression": coding, "max_decompressed_bytes": 1024})
    messages = delivered([payload for payload, _ in page], [attributes for _, attributes in page])
    exact = decode_by_message(messages, topic)
    fast = decode(messages, topic)
    assert fast.columns.equals(exact.columns)
    assert fast.undeclared == exact.undeclared


def test_without_compression_a_page_is_handed_on_as_it_is(topic: Topic) -> None:
    messages = delivered([json.dumps(PLAY).encode()])
    (part,) = compression.parts(messages, topic)
    assert part.messages is messages
