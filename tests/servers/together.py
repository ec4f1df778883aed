"""All servers of one run, each started when it is first asked for and all ended together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lakehouse.crash.processes import Server, UnavailableError
from tests.servers import hive, warehouse
from tests.servers.hdfs import Hdfs
from tests.servers.kafka import Kafka

Kind = TypeVar("Kind", Hdfs, Kafka, Server)


class Servers:
    """What cannot be had is an UnavailableError, which is not tried for twice."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, Hdfs | Kafka | Server] = {}
        self._missing: dict[str, UnavailableError] = {}

    def hdfs(self) -> Hdfs:
        return self._once("hdfs", lambda: Hdfs(self._folder / "hdfs"))

    def hive(self) -> Server:
        """On the HDFS that is started here, too."""
        return self._once("hive", lambda: hive.hive(self._folder / "hive", self.hdfs().address))

    def hive_in(self, zone: str) -> Server:
        """Another one in that time zone, on this machine's files."""
        return self._once(f"hive in {zone}", lambda: hive.hive(self._folder / zone.replace("/", "-"), zone=zone))

    def kafka(self) -> Kafka:
        return self._once("kafka", lambda: Kafka(self._folder / "kafka"))

    def bigquery(self) -> Server:
        return self._once("bigquery", lambda: warehouse.bigquery(self._folder / "bigquery"))

    def gcs(self) -> Server:
        return self._once("gcs", lambda: warehouse.gcs(self._folder / "gcs"))

    def gateway(self) -> Server:
        """To the `gcs` that is started here, too: where a lake can be."""
        return self._once("gateway", lambda: warehouse.gateway(self._folder / "gcs", self.gcs()))

    def end(self) -> None:
        for server in self._running.values():
            server.end()
        self._running.clear()

    def _once(self, name: str, start: Callable[[], Kind]) -> Kind:
        if name in self._missing:
            raise self._missing[name]
        if name not in self._running:
            try:
                self._running[name] = start()
            except UnavailableError as missing:
                self._missing[name] = missing
                raise
        return self._running[name]  # type: ignore[return-value]  # what `start` gave
