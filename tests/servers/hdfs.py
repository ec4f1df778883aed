"""HDFS: a NameNode and a DataNode on this machine."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path

from lakehouse.crash.processes import Server, UnavailableError, free_ports, listens, start_server
from tests.servers.downloads import HADOOP, jars, java, spark_jars

_NAMENODE = "org.apache.hadoop.hdfs.server.namenode.NameNode"
_DATANODE = "org.apache.hadoop.hdfs.server.datanode.DataNode"
_FROM_SPARK = ("hadoop-client-api", "hadoop-client-runtime", "slf4j-api", "jcl-over-slf4j", "log4j")
_STATE = "/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState"


class Hdfs:
    """Both processes. Either can be ended and started again; the blocks stay."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rpc, self._http, *data = free_ports(5)
        self._data = data[0]
        self.address = f"hdfs://127.0.0.1:{self._rpc}"
        self.web = f"http://127.0.0.1:{self._http}"
        conf = folder / "conf"
        conf.mkdir(parents=True)
        write_properties(conf / "core-site.xml", {"fs.defaultFS": self.address})
        write_properties(
            conf / "hdfs-site.xml",
            {
                "dfs.namenode.name.dir": f"file://{folder}/namenode",
                "dfs.datanode.data.dir": f"file://{folder}/datanode",
                "dfs.namenode.http-address": f"127.0.0.1:{self._http}",
                "dfs.datanode.address": f"127.0.0.1:{data[0]}",
                "dfs.datanode.http.address": f"127.0.0.1:{data[1]}",
                "dfs.datanode.ipc.address": f"127.0.0.1:{data[2]}",
                "dfs.datanode.hostname": "127.0.0.1",
                "dfs.replication": "1",
                "dfs.permissions.enabled": "false",
                "dfs.namenode.safemode.extension": "0",
                "dfs.heartbeat.interval": "1",
            },
        )
        shared = [jar for name in _FROM_SPARK for jar in spark_jars().glob(f"{name}*.jar")]
        path = ":".join(map(str, [conf, *jars("hadoop", [HADOOP]).glob("*.jar"), *shared]))
        self._command = [java(), "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", path]
        formatting = [*self._command, _NAMENODE, "-format", "-force", "-nonInteractive"]
        done = subprocess.run(formatting, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise UnavailableError(f"HDFS could not be formatted: {done.stderr.strip()[-300:]}")
        self.namenode = self.start_namenode()
        try:
            self.datanode = self.start_datanode()
        except BaseException:
            self.namenode.end()
            raise

    def start_namenode(self) -> Server:
        self.namenode = start_server(
            "namenode", [*self._command, _NAMENODE], self.folder, self.address, lambda: self._state() is not None
        )
        return self.namenode

    def start_datanode(self) -> Server:
        self.datanode = start_server(
            "datanode",
            [*self._command, _DATANODE],
            self.folder,
            self.address,
            lambda: listens(self._data) and self._live_datanodes() == 1,
        )
        return self.datanode

    def end(self) -> None:
        self.datanode.end()
        self.namenode.end()

    def servers(self) -> list[Server]:
        return [self.namenode, self.datanode]

    def names(self, folder: str) -> set[str]:
        """What is in the folder; none where there is no such folder."""
        return {line.rpartition("/")[2] for line in self._shell("-ls", folder).splitlines() if "/" in line}

    def remove(self, folder: str) -> None:
        """With all in it."""
        self._shell("-rm", "-r", "-skipTrash", folder)

    def _shell(self, *words: str) -> str:
        """What Hadoop's own client prints."""
        command = [*self._command, "org.apache.hadoop.fs.FsShell", *words]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=60).stdout

    def _live_datanodes(self) -> int:
        return int(str((self._state() or {}).get("NumLiveDataNodes", 0)))

    def _state(self) -> dict[str, object] | None:
        try:
            with urllib.request.urlopen(f"{self.web}{_STATE}", timeout=2) as answer:
                beans: list[dict[str, object]] = json.load(answer)["beans"]
        except (OSError, ValueError):
            return None
        return beans[0] if beans else None


def write_properties(file: Path, properties: dict[str, str]) -> None:
    lines = [f"<property><name>{name}</name><value>{value}</value></property>" for name, value in properties.items()]
    file.write_text("\n".join(["<configuration>", *lines, "</configuration>"]))
