from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fuzz_decode import SEEDS, decode_pages, decode_seed

KEPT = json.loads(SEEDS.read_text())


@pytest.mark.parametrize("seed", KEPT, ids=[seed["what"] for seed in KEPT])
def test_a_payload_that_once_did_harm_does_none(seed: dict[str, Any]) -> None:
    """Each ended the process, hung it or was read in two ways."""
    decode_seed(seed["topic"], seed["payload"])


@pytest.mark.timeout(180)
def test_no_generated_payload_ends_hangs_or_divides_the_decoder() -> None:
    """A short run with fixed seeds; `make fuzz` goes on with others."""
    decode_pages(1, 300)
