"""Hashes of ids, and which rows share one: in bounded memory, on disk beyond it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from lakehouse.checksum import one_core
from lakehouse.store.parquet import Addresses

Hashes = np.ndarray[tuple[int], np.dtype[np.uint64]]
HashOf = Callable[[pa.Array], Hashes]
"""A number for each id, the same for equal ids; those of different ids need not differ."""

MEMORY_BYTES = 64 * 1024**2
"""Of hashes and addresses: four million rows. What is more goes to disk."""

_BINS = 64
"""Each is looked at by itself; by the highest bits of a hash."""
_SHIFT = np.uint64(64 - 6)
_PAIR = np.dtype([("hash", np.uint64), ("address", np.int64)])
_Pairs = np.ndarray[tuple[int], np.dtype[np.void]]


def hashes_of(ids: pa.Array) -> Hashes:
    """DuckDB's hash, which is the same on all machines of a run but may differ between its releases."""
    with one_core() as connection:
        connection.register("ids", pa.table({"id": ids}))
        hashes: Hashes = connection.sql("select hash(id) as h from ids").to_arrow_table()["h"].to_numpy()
        return hashes


class SharedHashes:
    """Takes the hashes of rows, from any thread, and gives the addresses of those that share theirs with another row.

    16 bytes for each row, in memory up to `MEMORY_BYTES` and beyond in files of `folder`. OSError when it is full.
    """

    def __init__(self, folder: str) -> None:
        self._folder, self._lock = Path(folder), threading.Lock()
        self._waiting: list[list[_Pairs]] = [[] for _ in range(_BINS)]
        self._waiting_bytes = 0

    def add(self, hashes: Hashes, addresses: Addresses) -> None:
        bins = (hashes >> _SHIFT).astype(np.uint8)
        order = np.argsort(bins, kind="stable")
        pairs = np.empty(len(hashes), _PAIR)
        pairs["hash"], pairs["address"] = hashes[order], addresses[order]
        parts = np.split(pairs, np.cumsum(np.bincount(bins, minlength=_BINS))[:-1])
        with self._lock:
            for waiting, part in zip(self._waiting, parts, strict=True):
                waiting.append(part)
            self._waiting_bytes += pairs.nbytes
            if self._waiting_bytes > MEMORY_BYTES:
                self._spill()

    def addresses(self) -> Addresses:
        """Sorted; of every row whose hash another row has, too."""
        is_large = any(self._file(number).exists() for number in range(_BINS))
        with ThreadPoolExecutor(1 if is_large else pa.cpu_count()) as pool:  # each bin of a large hour takes 100 MB
            return np.sort(np.concatenate(list(pool.map(lambda number: _sharing(self._bin(number)), range(_BINS)))))

    def _spill(self) -> None:
        for number, waiting in enumerate(self._waiting):
            with open(self._file(number), "ab") as file:
                file.writelines(part.tobytes() for part in waiting)
            waiting.clear()
        self._waiting_bytes = 0

    def _bin(self, number: int) -> _Pairs:
        file = self._file(number)
        spilled = [np.fromfile(file, _PAIR)] if os.path.exists(file) else []
        return np.concatenate([np.empty(0, _PAIR), *spilled, *self._waiting[number]])

    def _file(self, number: int) -> Path:
        return self._folder / f"hashes-{number}"


def _sharing(pairs: _Pairs) -> Addresses:
    """Addresses of the rows whose hash is there twice. A count by the lowest bits leaves few of them to be sorted."""
    hashes = np.ascontiguousarray(pairs["hash"])
    size = 1 << (4 * len(hashes)).bit_length()
    slots = hashes.view(np.int64) & (size - 1)
    few = np.flatnonzero(np.bincount(slots, minlength=size)[slots] > 1)
    few = few[np.argsort(hashes[few])]
    is_next = hashes[few][1:] == hashes[few][:-1]
    is_shared = np.append(is_next, False) | np.append(False, is_next) if len(few) else np.empty(0, bool)
    addresses: Addresses = pairs["address"][few[is_shared]]
    return addresses
