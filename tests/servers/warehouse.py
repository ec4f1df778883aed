"""BigQuery and GCS as emulators: `local-bigquery`, whose `gs://` is a folder, and fake-gcs-server in memory."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

from lakehouse.crash.processes import Server, free_ports, listens, start_server
from tests.servers.downloads import bigquery_command, gcs_command

PROJECT = "sandbox"

_SERVE = "import sys; from local_bigquery.cli import main; sys.exit(main())"


def bigquery(folder: Path) -> Server:
    """One table per hour can be tried on it; of partitions it knows nothing, and takes `t$2026112305` for a name."""
    port, grpc = free_ports(2)
    (folder / "gcs").mkdir(parents=True)
    command = [
        *(str(bigquery_command()), "-c", _SERVE, "--host", "127.0.0.1", "--port", str(port), "--grpc-port", str(grpc)),
        *("--project", PROJECT, "--data-dir", str(folder / "data")),
    ]
    address = f"http://127.0.0.1:{port}"
    is_ready = f"{address}/bigquery/v2/projects/{PROJECT}/datasets"
    return start_server(
        "bigquery", command, folder, address, lambda: _answers(is_ready),
        environment={"GCS_LOCAL_ROOT": str(folder / "gcs")},
    )  # fmt: skip


def gcs(folder: Path) -> Server:
    (port,) = free_ports(1)
    here = f"127.0.0.1:{port}"
    command = [
        *(str(gcs_command()), "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port)),
        *("-external-url", f"http://{here}", "-public-host", here),
    ]
    return start_server(
        "gcs", command, folder, f"http://{here}", lambda: _answers(f"http://{here}/storage/v1/b?project=p")
    )


def gateway(folder: Path, emulator: Server) -> Server:
    """The emulator under an address at which delta-rs can write, too."""
    (port,) = free_ports(1)
    module = "tests.servers.gateway"
    command = [sys.executable, "-m", module, str(port), emulator.address.rpartition(":")[2]]
    root = {"PYTHONPATH": str(Path(__file__).parents[2])}  # it runs in its own folder, and `tests` is not installed
    return start_server("gateway", command, folder, f"http://127.0.0.1:{port}", lambda: listens(port), environment=root)


def lake_options(address: str) -> dict[str, str]:
    """`storage_options` of a lake there; the key is what keeps delta-rs from asking Google for a token."""
    key = {"gcs_base_url": address, "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
    return {
        "google_base_url": address,
        "google_skip_signature": "true",
        "google_service_account_key": json.dumps(key),
    }


def connector_settings(address: str) -> dict[str, str]:
    """What Hadoop's GCS connector needs to know of the emulator, which cannot move an object in one call."""
    return {
        "fs.gs.impl": "com.google.cloud.hadoop.fs.gcs.GoogleHadoopFileSystem",
        "fs.AbstractFileSystem.gs.impl": "com.google.cloud.hadoop.fs.gcs.GoogleHadoopFS",
        "fs.gs.storage.root.url": f"{address}/",
        "fs.gs.storage.service.path": "storage/v1/",
        "fs.gs.auth.type": "UNAUTHENTICATED",
        "fs.gs.project.id": PROJECT,
        "fs.gs.hierarchical.namespace.folders.enable": "false",
        "fs.gs.operation.move.enable": "false",
    }


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
