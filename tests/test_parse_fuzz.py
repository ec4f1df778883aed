from __future__ import annotations

import json

import pytest

from tests.fuzz_decode import SEEDS, Failed, decode_kept, decode_pages


def test_payloads_that_once_did_harm_do_none() -> None:
    """Each ended the process, hung it or was read in two ways. All in one process, which says at whose it ended."""
    kept = json.loads(SEEDS.read_text())
    assert len(kept) > 10
    decode_kept(kept)


def test_the_payload_that_ends_the_process_is_named() -> None:
    with pytest.raises(Failed, match="not base64"):
        decode_kept([{"what": "not base64", "topic": {}, "payload": "="}])


@pytest.mark.timeout(180)
def test_no_generated_payload_ends_hangs_or_divides_the_decoder() -> None:
    """A short run with fixed seeds; `make fuzz` goes on with others."""
    decode_pages(1, 300)
