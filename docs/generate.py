"""The pages of the manual that are made from the code and from measurements.

    python -m docs.generate            # write them
    python -m docs.generate --check    # 1 when one of them is not as the code says

Their text is in `docs/templates/`; `{{ name }}` there is replaced by a table.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import typer.main
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bench.report import RESULTS
from bench.table import costs
from bench.table import table as figures
from docs import comments
from docs.columns import MEANING
from docs.keys import default_of, is_literal, unit_of
from lakehouse import application, schemas
from lakehouse.cli.app import app
from lakehouse.config import Settings
from lakehouse.errors import EXIT_CODES, LakehouseError
from lakehouse.fleet.causes import CAUSES
from lakehouse.fleet.metrics import METRICS
from lakehouse.fleet.wanted import Entry, FleetFile, Size, TopicClass, Webhook
from lakehouse.mirrors.catalogue import KINDS, class_of
from lakehouse.sources import ConfluentRegistry, KafkaSource, LiteSource
from lakehouse.store import records
from lakehouse.store.heartbeats import Heartbeat, Pulse
from lakehouse.topics import Topic, topic_from
from lakehouse.types import arrow_type

HERE = Path(__file__).parent
PAGES = {
    "configuration.md": HERE / "configuration.md",
    "cli.md": HERE / "cli.md",
    "fleet.md": HERE / "fleet.md",
    "kafka.md": HERE / "kafka.md",
    "lite.md": HERE / "lite.md",
    "registries.md": HERE / "registries.md",
    "tables.md": HERE / "tables.md",
    "performance.md": HERE / "performance.md",
    "costs.md": HERE / "costs.md",
    "targets.md": HERE / "targets.md",
}
"""Template, and the page that is made from it."""

MIRROR_OPTIONS: dict[str, type[BaseModel]] = {kind: class_of(kind).Options for kind in sorted(KINDS)}
"""The keys of each kind of mirror."""

FLEET: dict[str, type[BaseModel]] = {
    "fleet": FleetFile,
    "application": Entry,
    "class": TopicClass,
    "size": Size,
    "webhook": Webhook,
}
"""The keys of `fleet.yaml`, and of what it has several of."""

SAMPLE = {
    "subscription": "projects/p/subscriptions/s",
    "event_id": "payload.play",
    "event_time": "payload.played_at",
    "fields": {"play": "string", "played_at": "timestamp"},
}


def main(arguments: list[str]) -> int:
    if "--check" in arguments:
        stale = [file for file, text in texts().items() if _read(file) != text]
        for page in stale:
            print(f"{page} is not as the code says: run `make docs`", file=sys.stderr)
        return int(bool(stale))
    for file, text in texts().items():
        file.write_text(text, encoding="utf-8")
    return 0


def texts() -> dict[Path, str]:
    """What each generated page and each commented configuration must hold."""
    made = {PAGES[name]: text for name, text in pages().items()}
    return made | {file: comments.with_comments(_read(file), MIRROR_OPTIONS) for file in comments.FILES}


def pages() -> dict[str, str]:
    """The text of each generated page, by its template."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, from our own code
    )
    values = {
        "topic_keys": "\n".join(_key_lines(Topic, skip=("name",))),
        "kafka_keys": "\n".join(_key_lines(KafkaSource, skip=("kind",))),
        "lite_keys": "\n".join(_key_lines(LiteSource, skip=("kind",))),
        "registry_keys": "\n".join(_key_lines(ConfluentRegistry, skip=("kind",))),
        "environment_keys": "\n".join(_key_lines(Settings)),
        **{f"{name}_keys": "\n".join(_key_lines(model)) for name, model in FLEET.items()},
        "causes": "\n".join(_causes()),
        "metrics": "\n".join(_metrics()),
        "mirror_keys": "\n\n".join(_mirror_sections()),
        "target_types": "\n".join(_target_types()),
        "target_names": "\n".join(_target_names()),
        "common_options": "\n".join(_parameter_rows(command_named(app, "status"), COMMON)),
        "commands": "\n\n".join(_commands()),
        "jobs": "\n\n".join(_jobs()),
        "exit_codes": "\n".join(_exit_codes()),
        "figures": figures(RESULTS).rstrip(),
        **costs(RESULTS),
        **{name: "\n".join(_columns(name, schema)) for name, schema in table_schemas().items()},
        "ledger_details": "\n\n".join(_ledger_details()),
        "heartbeat": "\n".join([*_details(Heartbeat), "", "Each of `topics`:", "", *_details(Pulse)]),
    }
    return {name: templates.get_template(name).render(values) for name in PAGES}


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


# --- configuration -------------------------------------------------------------------------------------------------


def _key_lines(model: type[BaseModel], skip: tuple[str, ...] = ()) -> Iterator[str]:
    """`| key | unit | default | meaning |` for each key, those of sections by their dotted names."""
    yield "| key | unit | default | what it is, and when to change it |"
    yield "|---|---|---|---|"
    for name, field in flat_fields(model):
        if name not in skip:
            yield f"| `{name}` | {_cell(_unit(field))} | {_cell(_default(field))} | {_cell(field.description or '')} |"


def flat_fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from flat_fields(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _unit(field: FieldInfo) -> str:
    unit = unit_of(field)
    return f"`{unit}`" if "<" in unit else unit


def _default(field: FieldInfo) -> str:
    return f"`{default_of(field)}`" if is_literal(field) else default_of(field)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _mirror_sections() -> Iterator[str]:
    for kind, options in MIRROR_OPTIONS.items():
        yield "\n".join([f"### `kind: {kind}`", "", *_key_lines(options, skip=("kind",))])


def _causes() -> Iterator[str]:
    yield "| cause | what it means | what to do |"
    yield "|---|---|---|"
    for name, (meaning, next_step) in CAUSES.items():
        yield f"| `{name}` | {meaning} | {next_step} |"


def _metrics() -> Iterator[str]:
    yield "| metric | labels | what it is | what to do |"
    yield "|---|---|---|---|"
    for name, metric in METRICS.items():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{name}` | {labels} | {metric.meaning} | {metric.reaction} |"


# --- targets -------------------------------------------------------------------------------------------------------

TARGETS: dict[str, dict[str, Any]] = {
    "BigQuery": {"kind": "bigquery", "project": "p", "dataset": "d"},
    "Hive": {"kind": "hive", "host": "h", "database": "d", "path": "hdfs://h/hive"},
    "HDFS": {"kind": "folder", "path": "hdfs://h/mirror"},
    "GCS": {"kind": "folder", "path": "gs://b/mirror"},
    "DuckDB": {"kind": "duckdb", "path": "hours.duckdb"},
}
"""The columns of the tables, each with a mirror that is asked."""

TYPES = (
    "string", "tinyint", "smallint", "int", "bigint", "float", "double", "boolean", "timestamp", "date", "binary",
    "decimal(10,2)", "decimal(38,18)", "array<string>", "array<array<int>>", "array<map<string,int>>",
    "map<string,int>", "map<string,array<int>>", "struct<id: string>", "array<struct<id: string>>",
)  # fmt: skip
NAMES = {
    "`Track`": "Track", "`größe`": "größe", "`a b`": "a b", "`user.id`": "user.id", "`2nd`": "2nd", "`a-b`": "a-b",
    "`_partitiontime`": "_partitiontime", "`_TABLE_x`": "_TABLE_x", "`ROW__ID`": "ROW__ID", "300 letters": "x" * 300,
    "301 letters": "x" * 301, "768 letters": "x" * 768,
}  # fmt: skip


def objections_of(target: str, fields: Mapping[str, str], name: str = "plays") -> list[str]:
    """What the target of the manual's tables says against a topic with these fields beside the id and the time."""
    options = TARGETS[target]
    kind = class_of(options["kind"])
    topic = topic_from(name, {**SAMPLE, "fields": {**SAMPLE["fields"], **fields}})  # type: ignore[dict-item]
    return kind.objections(topic, kind.Options.model_validate(options), [])


def _target_types() -> Iterator[str]:
    yield from _target_head("type")
    for text in TYPES:
        cells = [_type_at(target, text) for target in TARGETS]
        yield f"| `{text}` | {' | '.join(cells)} |"


def _type_at(target: str, text: str) -> str:
    if objections_of(target, {"x": text}):
        return "no"
    name = class_of(TARGETS[target]["kind"]).type_name(arrow_type(text)).replace("`", "")
    return name if name == "as it is" else f"`{name}`"


def _target_names() -> Iterator[str]:
    yield from _target_head("name of")
    for what, is_field in (("field", True), ("member of a struct", False)):
        for shown, name in NAMES.items():
            fields = {name: "string"} if is_field else {"x": f"struct<`{name}`: string>"}
            yield _target_row(f"{what}: {shown}", {target: objections_of(target, fields) for target in TARGETS})
    for letters in (128, 129, 255, 256):
        found = {target: objections_of(target, {}, "t" * letters) for target in TARGETS}
        yield _target_row(f"topic: {letters} letters", found)


def _target_head(first: str) -> Iterator[str]:
    yield f"| {first} | {' | '.join(TARGETS)} |"
    yield "|---" * (len(TARGETS) + 1) + "|"


def _target_row(first: str, objections: Mapping[str, list[str]]) -> str:
    return f"| {first} | {' | '.join('no' if found else 'yes' for found in objections.values())} |"


# --- command line --------------------------------------------------------------------------------------------------

COMMON = ("--conf", "--json")
"""Options of every command, which are described once."""


def _commands() -> Iterator[str]:
    group = typer.main.get_command(app)
    yield from _described(group, "lakehouse")


def kinds_of_errors() -> list[type[LakehouseError]]:
    """Every kind of error that an operator can meet, wherever it is defined."""
    import_module("lakehouse.validate.release")
    return LakehouseError.__subclasses__()


def _exit_codes() -> Iterator[str]:
    """A line per code, with the kinds of errors that have it, as `--json` names them."""
    yield "| code | it means | `kind` with `--json` |"
    yield "|---|---|---|"
    for code, meaning in EXIT_CODES.items():
        kinds = sorted(f"`{kind.__name__}`" for kind in kinds_of_errors() if kind.exit_code == code)
        yield f"| {code} | {_cell(meaning)} | {', '.join(kinds)} |"


def command_named(application: typer.Typer, *words: str) -> Any:
    """The command that these words begin with, such as `topics check`; None when there is none."""
    command: Any = typer.main.get_command(application)
    for word in words:
        if not hasattr(command, "commands"):
            break
        command = command.commands.get(word)
    return None if hasattr(command, "commands") else command


def _described(command: Any, name: str) -> Iterator[str]:
    if hasattr(command, "commands"):
        for sub in sorted(command.commands):
            yield from _described(command.commands[sub], f"{name} {sub}")
        return
    names = [opt for parameter in command.params for opt in parameter.opts if opt not in COMMON]
    yield "\n".join([f"## `{name}`", "", *_usage(command, name), "", *_parameter_rows(command, names)])


def _jobs() -> Iterator[str]:
    for file in sorted((HERE.parent / "jobs").glob("*.py")):
        command: Any = typer.main.get_command(application.command_of(getattr(application, file.stem)))
        names = [opt for parameter in command.params for opt in parameter.opts]
        title = f"### `jobs/{file.name}`"
        usage = _usage(command, f"./spark-submit.sh {file.stem}")
        yield "\n".join([title, "", *usage, "", *_parameter_rows(command, names)])


def _usage(command: Any, name: str) -> list[str]:
    """What it does, and how it is written: its arguments, and the options that it must have."""
    needed = [p for p in command.params if p.param_type_name == "argument" or p.required]
    return [command.help or "", "", "```", " ".join([name, *map(_spelling, needed)]), "```"]


def _parameter_rows(command: Any, names: Sequence[str]) -> list[str]:
    """A line for each argument and option that has one of the names; nothing where there is none."""
    chosen = [each for each in command.params if set(each.opts) & set(names) - {"--help"}]
    rows = [
        f"| `{_cell(_spelling(each))}` | {_cell(each.help or '')} | {_cell(_when_omitted(each))} |" for each in chosen
    ]
    return ["| argument or option | what it is | default |", "|---|---|---|", *rows] if rows else []


def _spelling(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    value = "" if parameter.is_flag else f" {parameter.metavar or parameter.name.upper()}"
    return ", ".join([*parameter.opts, *parameter.secondary_opts]) + value


def _when_omitted(parameter: Any) -> str:
    """`required`, or the default, where it says more than that nothing is given."""
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return str(parameter.show_default)
    return "" if parameter.default is None or parameter.default is False else f"`{parameter.default}`"


# --- tables --------------------------------------------------------------------------------------------------------


def table_schemas() -> dict[str, pa.Schema]:
    topic = topic_from("plays", dict(SAMPLE))
    return {
        "bronze_columns": schemas.bronze_schema(topic),
        "silver_columns": schemas.silver_schema(topic),
        "ledger_columns": schemas.LEDGER,
    }


def _columns(table: str, schema: pa.Schema) -> Iterator[str]:
    """A line per column; the declared fields of a topic are one line, as they differ from topic to topic."""
    yield "| column | type | meaning |"
    yield "|---|---|---|"
    declared = set(SAMPLE["fields"]) if table == "silver_columns" else set()  # type: ignore[arg-type]
    if declared:
        yield "| *declared fields* | as declared | The topic's `fields`, at top level, in the order of its file. |"
    for column in schema:
        if column.name not in declared:
            kind = "struct of the declared fields" if pa.types.is_struct(column.type) else str(column.type)
            yield f"| `{column.name}` | {kind} | {MEANING[column.name]} |"


def _ledger_details() -> Iterator[str]:
    """A table for each state, from the dataclasses through which its `details` are written and read."""
    parts = (records.Condition, records.FailedExpectation, records.PreviousSeal, records.DamagedFile)
    named = [(f"`{state}`", kind) for state, kind in records.RECORDS.items()] + [
        (part.__name__, part) for part in parts
    ]
    for title, kind in named:
        lines = [f"### {title}", "", (kind.__doc__ or "").strip().splitlines()[0]]
        yield "\n".join([*lines, *(["", *rows] if (rows := _details(kind)) else [])])


def _details(kind: type[Any]) -> list[str]:
    """`| key | type | meaning |` for each field of a class whose JSON is documented; nothing where it has none."""
    rows = [f"| `{each.key}` | {_cell(each.type)} | {_cell(each.meaning)} |" for each in records.meanings(kind)]
    return ["| key | type | meaning |", "|---|---|---|", *rows] if rows else []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
