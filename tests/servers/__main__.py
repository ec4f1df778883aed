"""All servers for a person: `start` them and say where they are, `stop` them again."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from lakehouse.crash import processes as servers_module
from lakehouse.crash.processes import Server, UnavailableError
from tests.servers.downloads import CONNECTOR, jars
from tests.servers.together import Servers
from tests.servers.warehouse import PROJECT, connector_settings, lake_options

FOLDER = Path("build/services")
RUNNING = FOLDER / "running.json"


def start() -> int:
    """Start what this machine can have; 1 when that is not everything."""
    stop()
    servers_module.outlive_us = True
    servers = Servers((FOLDER / "run").absolute())
    found: list[Server] = []
    answer: list[str] = []
    missing: list[str] = []
    try:
        for each in (_hdfs, _hive, _bigquery, _gcs, _kafka):
            try:
                started, lines = each(servers)
            except UnavailableError as reason:
                missing.append(str(reason))
                continue
            found += started
            answer += lines
            RUNNING.write_text(json.dumps([_known(server) for server in found]))
    except BaseException:
        servers.end()
        raise
    print("\n".join([*answer, *(f"not to be had: {reason}" for reason in missing)]))
    print("\nThey run until `make services-stop`; what they hold is gone then.")
    return 1 if missing else 0


def stop() -> int:
    """End the processes that `start` noted, each by its id and only if it is still the same process."""
    if RUNNING.exists():
        for process_id, created in json.loads(RUNNING.read_text()):
            try:
                process = psutil.Process(process_id)
                if process.create_time() == created:
                    process.kill()
                    process.wait(10)
            except psutil.NoSuchProcess:
                continue
    shutil.rmtree(FOLDER, ignore_errors=True)
    return 0


def _known(server: Server) -> tuple[int, float]:
    return server.process.pid, psutil.Process(server.process.pid).create_time()


def _hdfs(servers: Servers) -> tuple[list[Server], list[str]]:
    hdfs = servers.hdfs()
    return hdfs.servers(), ["HDFS", f"  kind: folder      path: {hdfs.address}/mirror", f"  pages: {hdfs.web}"]


def _hive(servers: Servers) -> tuple[list[Server], list[str]]:
    hive = servers.hive()
    at = urlsplit(f"//{hive.address}")
    path = f"{servers.hdfs().address}/hive"
    lines = [f"  kind: hive        host: {at.hostname}, port: {at.port}, database: lakehouse, path: {path}"]
    return [hive], ["Hive", *lines, f"  jdbc:hive2://{hive.address}"]


def _bigquery(servers: Servers) -> tuple[list[Server], list[str]]:
    server = servers.bigquery()
    lines = [
        f"  kind: bigquery    endpoint: {server.address}, project: {PROJECT}, dataset: lakehouse",
        f"  its gs:// is the folder {server.folder}/gcs; of partitions it knows nothing, take layout: table_per_hour",
    ]
    return [server], ["BigQuery", *lines]


def _kafka(servers: Servers) -> tuple[list[Server], list[str]]:
    kafka = servers.kafka()
    return [kafka.process], ["Kafka", f"  source: {{kind: kafka, bootstrap: {kafka.address}, topic: …}}"]


def _gcs(servers: Servers) -> tuple[list[Server], list[str]]:
    server, gateway = servers.gcs(), servers.gateway()
    (connector,) = jars("gcs-connector", [CONNECTOR]).glob("*.jar")
    settings = connector_settings(server.address)
    options = lake_options(gateway.address)
    return [server, gateway], [
        "GCS",
        f"  address: {server.address}",
        f"  spark.jars: {connector}",
        *(f"  spark.hadoop.{key}: {value}" for key, value in settings.items()),
        f"  storage_options: {json.dumps(options)}",
    ]


if __name__ == "__main__":
    sys.exit({"start": start, "stop": stop}[sys.argv[1]]())
