"""HiveServer2 with an embedded metastore in memory, on HDFS or on this machine's files."""

from __future__ import annotations

from pathlib import Path

from lakehouse.crash.processes import Server, free_ports, listens, start_server
from tests.servers.downloads import jars, java
from tests.servers.hdfs import write_properties

_COORDINATES = Path(__file__).with_name("hive.txt")
"""Each without what it depends on: what Hive's own poms ask for cannot be had any more, and need not be."""

_OPENED = (
    *("lang", "lang.reflect", "io", "net", "nio", "util", "util.concurrent", "util.concurrent.atomic"),
    *("util.regex", "time", "text"),
)


def hive(folder: Path, default_filesystem: str = "file:///", zone: str = "UTC") -> Server:
    """Its address is `host:port`. `default_filesystem` is where paths without a scheme are, `zone` that of its
    JVM."""
    (port,) = free_ports(1)
    conf = folder / "conf"
    conf.mkdir(parents=True)
    write_properties(conf / "core-site.xml", {"fs.defaultFS": default_filesystem})
    write_properties(conf / "hive-site.xml", _settings(folder, port))
    opens = [f"java.base/java.{package}" for package in _OPENED] + ["java.base/sun.nio.ch", "java.sql/java.sql"]
    command = [
        *(java(), "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", f"-Duser.timezone={zone}"),
        *(option for package in opens for option in ("--add-opens", f"{package}=ALL-UNNAMED")),
        *("-cp", f"{conf}:{jars('hive', _COORDINATES.read_text().split())}/*"),
        "org.apache.hive.service.server.HiveServer2",
    ]
    return start_server("hive", command, folder, f"127.0.0.1:{port}", lambda: listens(port))


def _settings(folder: Path, port: int) -> dict[str, str]:
    return {
        "javax.jdo.option.ConnectionURL": "jdbc:derby:memory:metastore;create=true",
        "javax.jdo.option.ConnectionDriverName": "org.apache.derby.jdbc.EmbeddedDriver",
        "datanucleus.schema.autoCreateAll": "true",
        "hive.metastore.schema.verification": "false",
        "hive.metastore.warehouse.dir": f"file://{folder}/warehouse",
        "hive.metastore.warehouse.external.dir": f"file://{folder}/external",
        "hive.exec.scratchdir": f"file://{folder}/scratch",
        "hive.exec.local.scratchdir": f"{folder}/local",
        "hive.server2.enable.doAs": "false",
        "hive.server2.authentication": "NONE",
        "hive.server2.transport.mode": "binary",
        "hive.server2.thrift.port": str(port),
        "hive.server2.thrift.bind.host": "127.0.0.1",
        "hive.server2.webui.port": "0",
        "hive.execution.engine": "mr",
        "mapreduce.framework.name": "local",
        "mapreduce.cluster.local.dir": f"{folder}/mapred",
        "hadoop.tmp.dir": f"{folder}/tmp",
        "hive.exec.submit.local.task.via.child": "false",
        "hive.server2.logging.operation.enabled": "false",
        "hive.metastore.event.db.notification.api.auth": "false",
        "hive.support.concurrency": "false",
        "hive.txn.manager": "org.apache.hadoop.hive.ql.lockmgr.DummyTxnManager",
        "hive.compactor.initiator.on": "false",
        "hive.scheduled.queries.executor.enabled": "false",
        "hive.server2.materializedviews.registry.impl": "DUMMY",
        "hive.server2.max.start.attempts": "1",
    }
