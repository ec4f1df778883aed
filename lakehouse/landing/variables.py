"""`${NAME}` in a value of a topic's file: an environment variable of driver and executors, where secrets are."""

from __future__ import annotations

import os
import re

from lakehouse.concealed import hide, may_be_secret
from lakehouse.errors import ConfigError

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_OF_USERS = ("user", "username")
"""How keys end whose values are words such as `lakehouse`, which messages go on to show."""


def resolved(key: str, value: str) -> str:
    """The value with each variable in its place; what may be secret is hidden from then on.

    `key` is its whole name, such as `registry.password`. ConfigError where a variable is not set.
    """

    def of_variable(found: re.Match[str]) -> str:
        name = found[1]
        if name not in os.environ:
            raise ConfigError(
                key,
                found=f"no environment variable {name}",
                expected="a variable that is set where the topic is read",
                next_step="Set it for the driver and for the executors.",
            )
        if not key.endswith(_OF_USERS):
            hide(os.environ[name])
        return os.environ[name]

    whole = _VARIABLE.sub(of_variable, value)
    if may_be_secret(key):
        hide(whole)
    return whole
