"""`${NAME}` in a value of a topic's file, of whichever broker or registry it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lakehouse.concealed import HIDDEN, know_only, without_secrets
from lakehouse.errors import ConfigError
from lakehouse.landing.variables import resolved


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PLAYS", "from-outside")
    monkeypatch.setenv("NOBODY", "${PLAYS}")
    before = know_only(())
    yield
    know_only(before)


def test_a_variable_is_put_in_its_place_once() -> None:
    """What is in a variable is a value, and names no other variable."""
    assert resolved("registry.user", "plain $PLAYS ${} $") == "plain $PLAYS ${} $"
    assert resolved("registry.user", "<${PLAYS}|${PLAYS}|${NOBODY}>") == "<from-outside|from-outside|${PLAYS}>"


@pytest.mark.parametrize("key", ["registry.password", "source.options.sasl.password", "source.options.ssl.key.pem"])
def test_what_comes_from_outside_is_shown_nowhere(key: str) -> None:
    resolved(key, "before ${PLAYS}")
    assert without_secrets("it has from-outside in it") == f"it has {HIDDEN} in it"


@pytest.mark.parametrize("key", ["registry.password", "source.options.ssl.key.password"])
def test_a_password_in_the_file_is_shown_nowhere(key: str) -> None:
    resolved(key, "in-the-file")
    assert without_secrets("it has in-the-file in it") == f"it has {HIDDEN} in it"


@pytest.mark.parametrize("key", ["registry.user", "source.options.sasl.username"])
def test_a_user_s_name_is_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may well be `lakehouse`, and errors name the command `lakehouse accept-loss`."""
    monkeypatch.setenv("PLAYS_USER", "lakehouse")
    assert resolved(key, "${PLAYS_USER}") == "lakehouse"
    assert without_secrets("`lakehouse accept-loss`") == "`lakehouse accept-loss`"


def test_a_variable_that_is_not_set_is_named_with_its_key() -> None:
    with pytest.raises(ConfigError, match=r"^registry\.password: found no environment variable NOT_THERE"):
        resolved("registry.password", "${NOT_THERE}")
