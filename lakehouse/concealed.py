"""Secrets of the configuration are left out of errors, logs and ledger rows: their values are known here."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

HIDDEN = "(not shown)"

_SHORTEST = 6
"""A shorter value is part of too many words."""
_WORDS = (
    "password", "passwd", "passphrase", "secret", "token", "credential", "privatekey", "apikey", "accesskey",
    "accountkey", "encryptionkey", "saskey", "serviceaccount", "signature", "bearer", "jaas",
)  # fmt: skip
_NAMES = {"key", "pwd", "sig", "sas"}
_NO_SECRETS = {"password_env", "service_account_email"}
_PLAIN = re.compile(r"(true|false|none|null|[\d.]+|/[^{}\n]*|[a-z0-9]+://[^@{}\s]*)", re.IGNORECASE)
"""Switches, numbers, paths and addresses, which are no secret under whatever name."""
_PASSWORD = re.compile(r"://[^/?#@:\s]*:([^/?#@\s]+)@")
"""Of an address, behind the user's name."""
_ASSIGNED = re.compile(r"([A-Za-z][\w.-]*)=([^\s&;,'\"]+)")
"""In a connection string, an option of a program, or the query of an address."""
_LONG = re.compile(r"[A-Za-z0-9+/=]{20,}")
"""No key of ours: those have words."""

_CREDENTIALS = re.compile(r"[^/@,\s]+:[^/@,\s]*@|(?<=//)[^/@,\s]+@")
"""Before a host's name, also in a list of hosts."""

_known: set[str] = set()


def may_be_secret(name: str) -> bool:
    """Whether a key of that name may hold a secret."""
    lowered = name.lower()
    joined = re.sub(r"[^a-z0-9]", "", lowered)
    return lowered not in _NO_SECRETS and (joined in _NAMES or any(word in joined for word in _WORDS))


def without_credentials(address: str) -> str:
    """An address without what is before its host: for one that nobody has learned."""
    return _CREDENTIALS.sub("…@", address)


def learn(settings: Mapping[str, Any]) -> None:
    """Remember what is secret among the keys and values of an environment, whatever their form.

    Names of mirrors are an operator's choice, and say nothing of what is below them.
    """
    mirrors = settings.get("mirrors")
    named = list(mirrors.values()) if isinstance(mirrors, Mapping) else mirrors
    found = _secrets({**settings, "mirrors": named}, is_secret=False)
    _known.update(each for each in found if len(each) >= _SHORTEST)


def hide(secret: str) -> None:
    """Remember one that is in no file: from the environment."""
    if len(secret) >= _SHORTEST:
        _known.add(secret)


def know_only(secrets: Collection[str]) -> frozenset[str]:
    """Forget all others, and give them back: for a process that turns from one environment to another, as tests do."""
    before = frozenset(_known)
    _known.clear()
    _known.update(secrets)
    return before


def without_secrets(text: str) -> str:
    """The text with each known secret left out."""
    for secret in sorted(_known, key=len, reverse=True):
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return text


def without_secrets_in(value: Any) -> Any:
    """What is to be kept as JSON, with each known secret left out of every text in it; numbers stay numbers."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        return {without_secrets_in(key): without_secrets_in(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets_in(each) for each in value]
    return value


def conceal_in_logs() -> None:
    """What is logged shows no secret, traces of errors included."""
    handlers = [*logging.getLogger().handlers, logging.lastResort]
    for handler in filter(None, handlers):
        if not isinstance(handler.formatter, _ConcealingFormatter):
            handler.setFormatter(_ConcealingFormatter(handler.formatter))


class _ConcealingFormatter(logging.Formatter):
    def __init__(self, formatter: logging.Formatter | None) -> None:
        super().__init__()
        self._formatter = formatter or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(self._formatter.format(record))


def _secrets(value: Any, is_secret: bool) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            options = not isinstance(each, Mapping) and name == "storage_options"
            yield from _secrets(each, is_secret or options or may_be_secret(str(name)))
            if _LONG.fullmatch(str(name)) or (each is None and is_secret):  # {s3cret} is a mapping in YAML
                yield str(name)
    elif isinstance(value, list | tuple | set):
        for each in value:
            yield from _secrets(each, is_secret)
    elif isinstance(value, str):
        yield from _secret_texts(value, is_secret)
    elif is_secret and isinstance(value, int) and not isinstance(value, bool):
        yield str(value)


def _secret_texts(text: str, is_secret: bool) -> Iterator[str]:
    """The text in each way in which it is said; of a JSON document its secret members, of an address its password."""
    if found := _PASSWORD.search(text):
        yield from {found[1], re.sub("%([0-9A-Fa-f]{2})", lambda code: chr(int(code[1], 16)), found[1])}
    yield from (value for name, value in _ASSIGNED.findall(text) if may_be_secret(name))
    if text.lstrip().startswith(("{", "[")):
        yield from _secrets(_json_value(text), is_secret=is_secret)
    if "PRIVATE KEY" in text or (is_secret and not _PLAIN.fullmatch(text)):
        lines = [line for line in re.split(r"\n|\\n", text) if "PRIVATE KEY" not in line]
        yield from (text, repr(text)[1:-1], json.dumps(text)[1:-1], *(line.strip() for line in lines))


def _json_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
