"""Kafka: one process that is broker and controller (KRaft), on this machine."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from lakehouse.crash.processes import Server, UnavailableError, free_ports, listens, start_server
from tests.servers.downloads import jars, java

_COORDINATES = Path(__file__).with_name("kafka.txt")
_CLUSTER = "bGFrZWhvdXNlLXRlc3RzLg"
"""Its id: 16 bytes in base64."""
USER, PASSWORD = "reader", "reader-password"
_TOKEN_LOGIN = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule"
_LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule"


class Kafka:
    """The broker can be ended and started again, at the same address; its topics stay.

    Whoever comes to `address` may do anything. At `guarded` there is one user, `USER`, who may do what no rule denies;
    at `by_token` whoever brings a token (OAUTHBEARER), which nobody has to have signed.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self._port, self._guarded_port, self._token_port, self._controller_port = free_ports(4)
        self.address = f"127.0.0.1:{self._port}"
        self.guarded = f"127.0.0.1:{self._guarded_port}"
        self.by_token = f"127.0.0.1:{self._token_port}"
        folder.mkdir(parents=True)
        properties = folder / "server.properties"
        values = {**self._settings(), **(settings or {})}
        properties.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        path = f"{jars('kafka', _COORDINATES.read_text().split())}/*"
        quick = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", path)
        formatting = [java(), *quick, "kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", str(properties)]
        done = subprocess.run(formatting, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise UnavailableError(f"Kafka's storage could not be formatted: {done.stderr.strip()[-300:]}")
        self._command = [java(), "-Xmx256m", *quick, "kafka.Kafka", str(properties)]
        self.process = self.start()

    def start(self) -> Server:
        """It takes connections when it is part of its cluster."""
        self.process = start_server("kafka", self._command, self.folder, self.address, lambda: listens(self._port))
        return self.process

    def end(self) -> None:
        """At once, as if the machine had failed."""
        self.process.end()

    @property
    def _listeners(self) -> str:
        return f"PLAINTEXT://{self.address},GUARDED://{self.guarded},TOKEN://{self.by_token}"

    def _settings(self) -> dict[str, str]:
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "listeners": f"{self._listeners},CONTROLLER://127.0.0.1:{self._controller_port}",
            "advertised.listeners": self._listeners,
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
            "GUARDED:SASL_PLAINTEXT,TOKEN:SASL_PLAINTEXT",
            "listener.name.guarded.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.token.sasl.enabled.mechanisms": "OAUTHBEARER",
            "listener.name.token.oauthbearer.sasl.jaas.config": f"{_TOKEN_LOGIN} required;",
            "listener.name.guarded.plain.sasl.jaas.config": f'{_LOGIN} required user_{USER}="{PASSWORD}";',
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "true",
            "super.users": "User:ANONYMOUS",
            "log.dirs": f"{self.folder}/logs",
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "1",
            "group.initial.rebalance.delay.ms": "0",
            "log.cleaner.backoff.ms": "500",
            "log.cleaner.dedupe.buffer.size": "4194304",
            "log.retention.check.interval.ms": "1000",
            "log.initial.task.delay.ms": "500",
        }
