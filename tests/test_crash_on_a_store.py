"""The random schedules of the crash kit on a store that refuses, loses answers, lags and is slow."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from lakehouse.config import Config
from lakehouse.crash.playing import outcome_of
from lakehouse.crash.schedules import random_schedule
from lakehouse.store import tables
from tests.servers.object_store import Faults, ObjectStoreServer, serving
from tests.servers.warehouse import lake_options

SEEDS, LONG = range(1), range(1, 12)
FEW = 100
"""Requests of a schedule, of which chance may refuse none."""


def on_store(config: Config, store: ObjectStoreServer, bucket: str) -> Config:
    """The same lake in a bucket, with its mirror."""
    roots = {"raw_root": f"gs://{bucket}/raw", "sealed_root": f"gs://{bucket}/sealed"}
    mirrors = {"folder": {"kind": "folder", "path": f"gs://{bucket}/mirror"}}
    update = {**roots, "mirrors": mirrors, "storage_options": lake_options(store.address)}
    return replace(config, settings=config.settings.model_copy(update=update))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [*SEEDS, *(pytest.param(seed, marks=pytest.mark.long) for seed in LONG)])
def test_a_random_schedule_on_a_store_in_a_bad_hour_loses_and_doubles_nothing(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deaths, two drivers, lost checkpoints and a broker's faults, while every kind of request may be refused (429,
    503), or be done and not answered, lists show what is written a moment later or seconds, and one
    answer in 20 is late.
    """
    monkeypatch.setattr("google.api_core.retry.retry_unary.time.sleep", lambda seconds: None)
    monkeypatch.setattr(tables, "_ledgers", {})
    refused: list[bool] = []

    def end_the_bad_hour() -> None:
        refused.extend(request.kind == "refused" for request in store.requests())
        store.misbehave(Faults())

    with serving() as store:
        store.misbehave(Faults(share=0.08, seed=seed, lag_seconds=(4.0, 0.05)[seed % 2], slow_seconds=0.3))
        outcome = outcome_of(
            random_schedule(seed),
            tmp_path,
            moved=partial(on_store, store=store, bucket=f"lake-{seed}"),
            in_peace=end_the_bad_hour,
        )
    assert any(refused) or len(refused) < FEW
    assert outcome.violations == []
