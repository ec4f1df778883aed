"""The manual says what the code does: generated pages are fresh, and every command of the tutorial runs."""

from __future__ import annotations

import re
import shlex
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from flights_lake import FlightsLake, shared_lake
from pydantic import BaseModel
from typer.testing import CliRunner

from docs import comments, generate
from docs.columns import MEANING
from docs.keys import unit_of
from lakehouse import schemas
from lakehouse.cli.app import app
from lakehouse.config import Settings, load
from lakehouse.decode.events import FROM_THE_FUTURE, FROM_THE_PAST, NO_EVENT_ID, NO_EVENT_TIME
from lakehouse.decode.json_messages import MAX_DEPTH, NOT_JSON
from lakehouse.ingest.closing import RULES
from lakehouse.landing.quarantine import KILLS_THE_DECODER
from lakehouse.operations.drafting.samples import samples_of
from lakehouse.operations.drafting.trial import trial
from lakehouse.sandbox.broker import Broker
from lakehouse.topics import Topic

pytestmark = pytest.mark.xdist_group("flights")

HOUSE = Path(__file__).parent.parent
DOCS = HOUSE / "docs"
PAGES = [HOUSE / "README.md", HOUSE / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


@pytest.fixture(scope="module")
def generated() -> dict[Path, str]:
    """As on another machine."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LAKEHOUSE_RELEASE", "another")
        return generate.texts()


@pytest.mark.slow
@pytest.mark.parametrize("file", [*generate.PAGES.values(), *comments.FILES], ids=lambda file: file.name)
def test_what_is_generated_is_as_the_code_says(file: Path, generated: dict[Path, str]) -> None:
    """A key, a command or a column that changes must change the manual and the comments in conf/, on every machine."""
    assert file.read_text(encoding="utf-8") == generated[file], "run `make docs`"


@pytest.mark.parametrize("file", comments.FILES, ids=lambda file: file.name)
def test_every_key_of_an_environment_has_its_comment_again(file: Path) -> None:
    """Comments that are lost or wrong are written again; the values stay."""
    text = file.read_text(encoding="utf-8")
    wrong = re.sub(r"^(?!# Each key)(.*?) · .* · .*$", r"\1 · 7 · another text", text, flags=re.MULTILINE)
    assert wrong != text
    again = comments.with_comments(wrong, generate.MIRROR_OPTIONS)
    declared, spark = again.partition("\nspark:")[0], text.partition("\nspark:")[0]
    assert declared == spark
    assert yaml.safe_load(again) == yaml.safe_load(text)


@pytest.mark.parametrize("model", [Topic, Settings, *generate.FLEET.values(), *generate.MIRROR_OPTIONS.values()])
def test_every_key_says_its_unit_and_when_to_change_it(model: type[BaseModel]) -> None:
    silent = [name for name, field in generate.flat_fields(model) if not (field.description and unit_of(field))]
    assert set(silent) <= {"name", "kind"}


def test_every_column_has_a_meaning_and_no_other() -> None:
    declared = set(generate.SAMPLE["fields"])  # type: ignore[arg-type]
    columns = {name for schema in generate.table_schemas().values() for name in schema.names} - declared
    assert columns == set(MEANING)
    assert set(schemas.LEDGER.names) <= columns


def test_the_manual_has_every_closing_rule_in_its_own_words() -> None:
    rows = re.findall(r"^\| (\w+) \| (.+) \|$", (DOCS / "concepts.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [(rule.name, rule.sentence) for rule in RULES] == [row for row in rows if row[0] in {r.name for r in RULES}]


def test_operators_can_look_up_every_reason_of_rejection() -> None:
    page = (DOCS / "operations.md").read_text(encoding="utf-8")
    reasons = [NOT_JSON, NO_EVENT_ID, NO_EVENT_TIME, FROM_THE_FUTURE, FROM_THE_PAST, KILLS_THE_DECODER]
    assert [reason for reason in reasons if f"`{reason}`" not in page] == []
    assert f"nested at most {MAX_DEPTH} deep" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_command_that_a_page_names_exists(page: Path) -> None:
    """With its options: a page that names what is gone sends people astray."""
    for line in re.findall(r"(?<!from )lakehouse ((?:topics |fleet |dataproc )?[a-z-]+(?: [^`\n#]*)?)", _code_of(page)):
        words = [word for word in shlex.split(line.replace("…", "x"), posix=False) if word]
        command = generate.command_named(app, words[0], *words[1:2])
        assert command is not None, f"{page.name}: lakehouse {line}"
        options = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= options | {"--help"}, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_file_that_a_page_names_exists(page: Path) -> None:
    named = set(
        re.findall(r"`((?:lakehouse|tests|bench|jobs|conf|docs)/[\w/.-]+\.\w+)`", page.read_text(encoding="utf-8"))
    )
    assert [name for name in sorted(named) if not (HOUSE / name).exists() and "plays" not in name] == []


def test_the_readme_is_read_in_one_go() -> None:
    assert len((HOUSE / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def _code_of(page: Path) -> str:
    """Its code: spans, indented lines and fenced blocks, a line each."""
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return "\n".join([*fenced, *re.findall(r"`(lakehouse [^`\n]+)`", text)])


# --- the tutorial --------------------------------------------------------------------------------------------------

TUTORIAL = (DOCS / "tutorial.md").read_text(encoding="utf-8")


def _marked(mark: str) -> list[tuple[str, str]]:
    """(what the mark says, the block below it), in the tutorial's order."""
    return re.findall(rf"^<!-- {mark}(?:: ([^\n]*?))? -->\n```[a-z]*\n(.*?)^```", TUTORIAL, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def demo_lake() -> FlightsLake:
    return shared_lake()


@pytest.fixture
def newcomer(tmp_path: Path) -> Path:
    """A copy of the tree's configuration with the tutorial's own files in it."""
    for folder in ("conf", "expectations"):
        shutil.copytree(HOUSE / folder, tmp_path / folder)
    for name, content in _marked("file"):
        (tmp_path / name).write_text(content, encoding="utf-8")
    return tmp_path


def test_what_the_tutorial_publishes_reaches_its_own_topic(
    newcomer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a sandbox as `lakehouse sandbox` makes it; and it is an event."""
    config = load(newcomer / "conf" / "local.yaml")
    ((_, program),) = _marked("publish")
    with Broker() as broker:
        for topic in config.topics.values():
            broker.create(topic.subscription)
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", broker.address)
        exec(program, scope := {})
        assert broker.unacked(config.topic("plays").subscription) == capsys.readouterr().out.split()
    (newcomer / "messages.jsonl").write_bytes(scope["play"])
    samples = samples_of(str(newcomer / "messages.jsonl"), datetime.now(UTC), answers="ptars")
    assert (trial(config.topic("plays"), samples).events, list(trial(config.topic("plays"), samples).hours)) == (
        1,
        ["2025-06-01T05"],
    )


STEPS = re.findall(
    r"^<!-- shows: (.+) -->\n```\n(.*?)\n```", (DOCS / "concepts.md").read_text(encoding="utf-8"), re.MULTILINE
)


@pytest.mark.slow
@pytest.mark.parametrize(("shows", "command"), STEPS, ids=[command.split()[1] for _, command in STEPS])
def test_the_path_of_one_event_is_seen_as_the_manual_says(demo_lake: FlightsLake, shows: str, command: str) -> None:
    """Each step of the manual's first picture, on a lake like the demo's."""
    done = CliRunner().invoke(app, ["--conf", str(demo_lake.conf), *shlex.split(command)[1:]])
    assert done.exit_code == 0, done.output
    assert shows in " ".join(done.output.split())


def test_the_manual_shows_every_step_of_one_event() -> None:
    assert [command.split()[1] for _, command in STEPS] == ["trace", "explain", "audit", "verify", "hours", "reconcile"]


def test_every_command_has_the_options_that_are_described_once() -> None:
    page = generate.pages()["cli.md"]
    for title in re.findall(r"^## `lakehouse (.+)`$", page, re.MULTILINE):
        command = generate.command_named(app, *title.split())
        assert set(generate.COMMON) <= {option for each in command.params for option in each.opts}, title


def test_every_job_and_its_options_are_in_the_manual() -> None:
    page = generate.pages()["cli.md"].partition("## Jobs")[2]
    jobs = sorted(file.name for file in (HOUSE / "jobs").glob("*.py"))
    assert re.findall(r"^### `jobs/(.+)`$", page, re.MULTILINE) == jobs
    sections = dict(zip(jobs, page.split("### ")[1:], strict=True))
    assert all("`--conf PATH`" in section for section in sections.values())
    assert {name for name, section in sections.items() if "`--every DURATION`" in section} == {*jobs} - {
        "doctor.py",
        "ingest.py",
        "run.py",
    }
    assert {name for name, section in sections.items() if "`--until-drained" in section} == {"ingest.py", "run.py"}
    assert {name for name, section in sections.items() if "`--dry-run`" in section} == {"maintain.py"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_commands_of_the_tutorial_run(
    demo_lake: FlightsLake, newcomer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a lake like the demo's, and on the reader's own topic."""
    monkeypatch.chdir(tmp_path)
    blocks = [block for _, block in _marked("run")]
    assert [len(block.splitlines()) for block in blocks] == [6, 1]
    for block in blocks:
        for line in block.splitlines():
            is_own = "topics check" in line
            conf = newcomer / "conf" / "local.yaml" if is_own else demo_lake.conf
            done = CliRunner().invoke(app, ["--conf", str(conf), *shlex.split(line)[1:]])
            assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception}"
            assert not is_own or "plays" in done.output
