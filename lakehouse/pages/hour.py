"""The page of a validated hour: its result in, one HTML file out that needs nothing from anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any

from lakehouse import hours

_SHOWN = 10
"""Examples that stand open; the rest is there to be unfolded."""

Result = Mapping[str, Any]
"""What a validation writes as JSON: the hour, its numbers, and one object per expectation."""


@dataclass(frozen=True)
class Since:
    """An hour as it stands, beyond its result: what only the ledger knows, charts, and ways to other pages.

    `links` are (text, address); `story` and `mirrors` are rows to be shown; `lateness` and `volume` are SVG.
    """

    topic: str
    hour: hours.Hour
    state: str
    why: str = ""
    waits_for: str | None = None
    released: str | None = None
    links: Sequence[tuple[str, str]] = ()
    conditions: Sequence[Sequence[Any]] = ()
    mirrors: Sequence[Sequence[Any]] = ()
    story: Sequence[Sequence[Any]] = ()
    lateness: str = ""
    volume: str = ""
    volume_note: str = ""


def page(result: Result, since: Since | None = None) -> str:
    """The hour's page, verdict first: as it was judged and, with `since`, as it stands."""
    return _joined(
        f"{result['topic']} · {result['hour']} · {result['state']}",
        str(result["state"]),
        _links(since),
        _verdict(result, since),
        _broken(result),
        _remarks(result),
        _numbers(result),
        _charts(result.get("lateness"), since),
        _closing(result),
        _mirrors(since),
        _story(since),
        _all_expectations(result),
        _origin(result),
    )


def page_without_verdict(since: Since) -> str:
    """The page of an hour that is not judged yet: where it stands and why."""
    waits = f"<p class='means'>It waits for: {escape(since.waits_for)}.</p>" if since.waits_for else ""
    header = f"""<header class="plain s-{escape(since.state)}">
<p class="where">{escape(since.topic)}</p>
<h1>{escape(since.state.capitalize())}</h1>
{_when(since.hour)}
<p class="means">{escape(since.why)}</p>
{waits}</header>"""
    conditions = _table(["condition", "met", "required", "measured", "in words"], since.conditions, "stacked")
    return _joined(
        f"{since.topic} · {since.hour} · {since.state}",
        since.state,
        _links(since),
        header,
        f"<section><h2>Conditions for its close</h2>{conditions}</section>" if since.conditions else "",
        _charts(None, since),
        _story(since),
    )


def _joined(title: str, state: str, *parts: str) -> str:
    body = "\n".join(part for part in parts if part)
    return _PAGE.format(title=escape(title), style=STYLE, state=escape(state), body=body)


def sentence(expectation: Result) -> str:
    """What an expectation demands, for people."""
    kwargs = {key: value for key, value in expectation["kwargs"].items() if value is not None}
    tell = _SENTENCES.get(expectation["expectation"])
    told = tell(kwargs) if tell else _spelled(expectation["expectation"], kwargs)
    mostly = kwargs.get("mostly", 1)
    return told if mostly == 1 else f"{told}, in at least {100 * mostly:g}% of the rows"


# --- the parts, in reading order -----------------------------------------------------------------------------------


def _links(since: Since | None) -> str:
    if since is None or not since.links:
        return ""
    links = "".join(f'<a href="{escape(address)}">{escape(text)}</a>' for text, address in since.links)
    return f"<nav>{links}</nav>"


def _when(hour: str) -> str:
    start, end = hours.start_of(hour), hours.end_of(hour)
    return f"""<p class="when"><time datetime="{start.isoformat()}">{start:%A, %-d %B %Y, %H:%M}–{end:%H:%M} UTC</time>
<code>{escape(hour)}</code></p>"""


def _verdict(result: Result, since: Since | None) -> str:
    failed, warnings = _of(result, "critical"), _of(result, "warning")
    is_valid = result["state"] == "valid"
    word = "Valid" if is_valid else "Invalid"
    if not is_valid:
        means = (
            f"{_counted(len(failed), 'critical expectation')} failed. "
            "The hour stays here until it is released or sealed anew."
        )
    elif warnings:
        means = f"Every critical expectation holds; {_counted(len(warnings), 'warning')}. The hour goes to its mirrors."
    else:
        means = "Everything holds. The hour goes to its mirrors."
    if since is not None and since.released:
        means = f"{_counted(len(failed), 'critical expectation')} failed. Released {since.released}"
    return f"""<header>
<p class="where">{escape(result["topic"])}</p>
<h1><span class="mark" aria-hidden="true">{"✓" if is_valid else "✕"}</span> {word}</h1>
{_when(result["hour"])}
<p class="means">{escape(means)}</p>
{_now(since)}</header>"""


def _now(since: Since | None) -> str:
    if since is None:
        return ""
    waits = f", waits for: {escape(since.waits_for)}" if since.waits_for else ""
    return f"<p class='now'>Now: <b>{escape(since.state)}</b>{waits}</p>\n"


def _broken(result: Result) -> str:
    cards = [_card(finding, result["rows"]) for finding in [*_of(result, "critical"), *_of(result, "warning")]]
    return f"<section><h2>What does not hold</h2>\n{chr(10).join(cards)}</section>" if cards else ""


def _card(finding: Result, rows: int) -> str:
    severity, column = escape(finding["severity"]), escape(finding["column"] or "the hour")
    figures = []
    if finding["unexpected"] is not None:
        figures.append(f"<b>{finding['unexpected']:,}</b> of {_counted(rows, 'row')} against it")
    if finding["observed"] is not None:
        figures.append(f"observed <b>{escape(_text(finding['observed']))}</b>")
    note = f"<p class='note'>{escape(finding['notes'])}</p>" if finding["notes"] else ""
    return f"""<article class="{severity}">
<h3><span class="tag">{severity}</span> <code>{column}</code> {escape(sentence(finding))}</h3>
<p class="figures">{" · ".join(figures)}</p>{note}
{_examples(finding)}</article>"""


def _examples(finding: Result) -> str:
    examples = finding["examples"]
    if not examples:
        return ""
    columns = list(dict.fromkeys(column for example in examples for column in example))
    shown = _table(columns, ([example.get(column) for column in columns] for example in examples[:_SHOWN]), "examples")
    rest = examples[_SHOWN:]
    if not rest:
        return shown
    more = _table(columns, ([example.get(column) for column in columns] for example in rest), "examples")
    return f"{shown}\n<details><summary>{len(rest)} more examples</summary>{more}</details>"


def _remarks(result: Result) -> str:
    """What holds, but with a reservation."""
    remarks = [finding["remark"] for finding in result["expectations"] if finding.get("remark")]
    told = "".join(f"<p>{escape(remark)}</p>" for remark in remarks)
    return f"<section><h2>Worth knowing</h2><article class='warning'>{told}</article></section>" if remarks else ""


def _charts(lateness: Mapping[str, Any] | None, since: Since | None) -> str:
    parts = []
    if lateness:
        figures = " · ".join(
            f"{name} <b>{_duration(lateness[key])}</b>"
            for name, key in (("half within", "p50_seconds"), ("90% within", "p90_seconds"),
                              ("99% within", "p99_seconds"), ("the latest", "largest_seconds"))
        )  # fmt: skip
        drawn = since.lateness if since else ""
        parts.append(f"<section><h2>How late its events came</h2><p class='figures'>{figures}</p>{drawn}</section>")
    if since and since.volume:
        note = f"<p class='figures'>{escape(since.volume_note)}</p>" if since.volume_note else ""
        parts.append(f"<section><h2>Rows, hour by hour</h2>{note}{since.volume}</section>")
    return "\n".join(parts)


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if abs(seconds) >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _mirrors(since: Since | None) -> str:
    if since is None or not since.mirrors:
        return ""
    table = _table(["target", "rows counted there", "as sealed", "where", "at"], since.mirrors, "stacked")
    return f"<section><h2>Where it was delivered</h2>{table}</section>"


def _story(since: Since | None) -> str:
    if since is None or not since.story:
        return ""
    table = _table(["at", "what", "by", "in words"], since.story, "stacked story")
    return f"<section><h2>What happened to it</h2>{table}</section>"


def _numbers(result: Result) -> str:
    seal = result["seal"]
    tiles = [
        ("rows", result["rows"], "one per event"),
        ("deliveries", seal.get("deliveries"), "messages received"),
        ("duplicates", seal.get("duplicates"), "left out"),
        ("late duplicates", seal.get("late_duplicates"), "sealed in an earlier hour"),
        ("skewed", seal.get("skewed"), "of an earlier event hour"),
        ("rejected", (result.get("closed") or {}).get("rejected"), "since the last close, of no hour"),
    ]
    cells = "\n".join(
        f"<div><dt>{name}</dt><dd>{value:,}</dd><dd class='small'>{meaning}</dd></div>"
        for name, value, meaning in tiles
        if isinstance(value, int)
    )
    return f"<section><h2>What is in it</h2>\n<dl class='tiles'>\n{cells}\n</dl></section>"


def _closing(result: Result) -> str:
    closed = result.get("closed") or {}
    if not closed:
        return ""
    because = {
        "watermark": "its time had passed, its backlog was consumed and nothing was being written to it",
        "idle": "the topic was idle, with everything published for it consumed",
        "request": f"{closed.get('requested_by')} asked for it: {closed.get('request_reason')}",
    }
    why = because.get(str(closed.get("why")), str(closed.get("why")))
    conditions = [
        [row.get("condition"), row.get("required"), row.get("measured"), row.get("text")]
        for row in closed.get("conditions") or ()
    ]
    table = _table(["condition", "required", "measured", "in words"], conditions, "stacked") if conditions else ""
    return f"""<section><h2>Why it closed</h2>
<p>Closed {_instant(closed.get("at"))} because {escape(why)}.</p>
{table}</section>"""


def _all_expectations(result: Result) -> str:
    rows = "\n".join(_row(finding) for finding in result["expectations"])
    return f"""<section><h2>All {len(result["expectations"])} expectations</h2>
<div class="scroll stacked"><table><thead><tr><th>holds</th><th>of</th><th>expected</th><th>severity</th>
<th class="number">rows against it</th></tr></thead>
<tbody>
{rows}
</tbody></table></div></section>"""


def _row(finding: Result) -> str:
    holds = "yes" if finding["success"] else "no"
    against = f"{finding['unexpected']:,}" if finding["unexpected"] is not None else ""
    return (
        f"<tr class='{holds} {escape(finding['severity'])}'><td><span class='holds'>{holds}</span></td>"
        f"<td><code>{escape(finding['column'] or 'the hour')}</code></td><td>{escape(sentence(finding))}</td>"
        f"<td data-name='severity'>{escape(finding['severity'])}</td>"
        f"<td data-name='rows against it' class='number'>{against}</td></tr>"
    )


def _origin(result: Result) -> str:
    seal = result["seal"]
    facts = [
        ("validated", _instant(result["at"])),
        ("by release", escape(result["release"])),
        ("run", escape(result["run"])),
        ("engine", f"{escape(result['engine'])}, {result['seconds']:.2f} s"),
        ("suite", f"<code>{escape(result['suite_hash'])}</code>"),
        ("silver version", escape(_text(result["silver_version"]))),
        ("revision", escape(_text(result["revision"]))),
        ("sealed by release", escape(_text(seal.get("release")))),
        ("bronze version", escape(_text(seal.get("bronze_version")))),
        ("id checksum", f"<code>{escape(_text(seal.get('id_checksum')))}</code>"),
    ]
    cells = "\n".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    return f"<footer><h2>Where this comes from</h2>\n<dl class='facts'>\n{cells}\n</dl></footer>"


# --- words ---------------------------------------------------------------------------------------------------------


def _between(kwargs: Mapping[str, Any], what: str = "lies") -> str:
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    if low is None and kwargs.get("strict_max"):
        return f"{what} {'before' if isinstance(high, str) else 'less than'} {_text(high)}".replace("lies", "is")
    if low is None or high is None:
        bound = f"at least {_text(low)}" if high is None else f"at most {_text(high)}"
        return f"{what} {bound}".replace("lies", "is")
    return f"{what} between {_text(low)} and {_text(high)}"


def _pair(kwargs: Mapping[str, Any]) -> str:
    return f"{kwargs['column_A']} {'≥' if kwargs.get('or_equal') else '>'} {kwargs['column_B']}"


_SENTENCES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "expect_column_values_to_not_be_null": lambda kwargs: "is not missing",
    "expect_column_values_to_be_null": lambda kwargs: "is missing",
    "expect_column_values_to_be_unique": lambda kwargs: "comes only once",
    "expect_compound_columns_to_be_unique": lambda kwargs: "come together only once",
    "expect_column_values_to_be_between": _between,
    "expect_column_value_lengths_to_be_between": lambda kwargs: _between(kwargs, "has a length"),
    "expect_column_mean_to_be_between": lambda kwargs: _between(kwargs, "has a mean"),
    "expect_column_max_to_be_between": lambda kwargs: _between(kwargs, "has a largest value"),
    "expect_column_min_to_be_between": lambda kwargs: _between(kwargs, "has a smallest value"),
    "expect_column_values_to_be_in_set": lambda kwargs: f"is one of {_text(kwargs.get('value_set'))}",
    "expect_column_values_to_not_be_in_set": lambda kwargs: f"is none of {_text(kwargs.get('value_set'))}",
    "expect_column_values_to_match_regex": lambda kwargs: f"matches {kwargs.get('regex')}",
    "expect_column_values_to_not_match_regex": lambda kwargs: f"does not match {kwargs.get('regex')}",
    "expect_column_pair_values_a_to_be_greater_than_b": _pair,
    "expect_table_row_count_to_equal": lambda kwargs: f"has exactly {_text(kwargs.get('value'))} rows",
    "expect_volume_as_usual": lambda kwargs: "holds as much as is usual for its hour of the day and week",
    "expect_table_row_count_to_be_between": lambda kwargs: f"{_between(kwargs, 'has')} rows",
}

_SAID_ELSEWHERE = ("column", "column_A", "column_B", "column_list", "mostly", "ignore_row_if")


def _spelled(kind: str, kwargs: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in kwargs.items() if key not in _SAID_ELSEWHERE}
    words = kind.removeprefix("expect_").replace("_", " ")
    return f"{words} ({', '.join(f'{key} {_text(value)}' for key, value in rest.items())})" if rest else words


def _of(result: Result, severity: str) -> list[Result]:
    return [finding for finding in result["expectations"] if not finding["success"] and finding["severity"] == severity]


def _table(columns: Iterable[str], rows: Iterable[Iterable[Any]], kind: str) -> str:
    names = [escape(str(column)) for column in columns]
    head = "".join(f"<th>{name}</th>" for name in names)
    body = "\n".join(f"<tr>{_cells(names, row)}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
    return f"<div class='scroll {kind}'>{table}</div>"


def _cells(names: Iterable[str], row: Iterable[Any]) -> str:
    return "".join(f"<td data-name='{name}'>{_cell(value)}</td>" for name, value in zip(names, row, strict=True))


def _cell(value: Any) -> str:
    return "<i>missing</i>" if value is None else escape(_text(value))


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}" if abs(value) > 9999 else str(value)
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _instant(text: Any) -> str:
    """An ISO time to the second; the rest of it stays in the attribute."""
    if not text:
        return "at an unknown time"
    instant = datetime.fromisoformat(str(text))
    return f"<time datetime='{escape(instant.isoformat())}'>{instant:%Y-%m-%d %H:%M:%S} UTC</time>"


def _noun(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {_noun(count, noun)}"


# --- the sheet -----------------------------------------------------------------------------------------------------

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body class="{state}">
<main>
{body}
</main>
</body>
</html>
"""

STYLE = """
:root {
  --paper: #f6f5f2; --card: #ffffff; --ink: #1d2026; --soft: #646b77; --line: #e2e0da;
  --pale: #a9b4c4; --accent: #3566a8; --wash-accent: #dbe6f4; --purple: #6f42b5; --blue: #3f6fb5;
  --good: #17714a; --good-wash: #e4f2ea; --bad: #b3261e; --bad-wash: #fbe9e7; --warn: #8a5a00; --warn-wash: #fbf1dc;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14161a; --card: #1d2026; --ink: #e8e9ec; --soft: #9aa1ad; --line: #30343c;
    --pale: #566171; --accent: #86b3f0; --wash-accent: #263a55; --purple: #c3a6f5; --blue: #7fa8e8;
    --good: #6fd0a0; --good-wash: #163024; --bad: #ff8f85; --bad-wash: #3a1c1a; --warn: #f0c066; --warn-wash: #33270f;
  }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 4rem }
h1, h2, h3, p, dl, dd { margin: 0 }
h1 { font-size: clamp(2.2rem, 7vw, 3.2rem); line-height: 1.1; letter-spacing: -.02em; display: flex;
  align-items: center; gap: .35em }
h2 { font-size: 1.05rem; margin-bottom: .75rem }
h3 { font-size: 1rem; font-weight: 600; overflow-wrap: anywhere }
section, footer { margin-top: 2.25rem }
code { font: .92em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere }
header { --tone: var(--good); --wash: var(--good-wash); background: var(--wash);
  border: 1px solid color-mix(in srgb, var(--tone) 30%, transparent); border-radius: 16px; padding: 1.5rem 1.75rem }
.invalid header { --tone: var(--bad); --wash: var(--bad-wash) }
header h1 { color: var(--tone) }
.mark { display: inline-grid; place-items: center; width: 1.25em; height: 1.25em; border-radius: 50%;
  font-size: .62em; background: var(--tone); color: var(--card) }
header.plain { --tone: var(--blue); --wash: var(--wash-accent) }
header.s-held { --tone: var(--warn); --wash: var(--warn-wash) }
.now { margin-top: .5rem; color: var(--soft) }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin-bottom: 1rem; font-size: .92rem }
a { color: var(--accent); text-decoration-thickness: .06em; text-underline-offset: .18em }
.chart { margin: .75rem 0 0; background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: .9rem .75rem .4rem }
.chart svg { display: block; width: 100%; height: auto; max-height: 22rem }
.chart text { font-family: inherit }
.story td:first-child { white-space: nowrap }
.where { font-weight: 600; font-size: 1.1rem; margin-bottom: .35rem }
.when { margin-top: .5rem; color: var(--soft) }
.when code { white-space: nowrap; margin-left: .4em }
.means { margin-top: .6rem; font-size: 1.1rem }
article { background: var(--card); border: 1px solid var(--line); border-left: 5px solid var(--tone);
  border-radius: 12px; padding: 1rem 1.25rem; margin-bottom: .9rem; --tone: var(--bad); --wash: var(--bad-wash) }
article.warning { --tone: var(--warn); --wash: var(--warn-wash) }
.tag { color: var(--tone); background: var(--wash); border-radius: 99px; padding: .12em .65em; font-size: .75rem;
  vertical-align: .1em; margin-right: .25em; white-space: nowrap }
.figures { margin-top: .4rem; font-variant-numeric: tabular-nums }
.note { color: var(--soft); margin-top: .15rem }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: .8rem 1rem }
dt { color: var(--soft); font-size: .85rem }
.tiles dd:not(.small) { font-size: 1.6rem; font-weight: 600; line-height: 1.25; font-variant-numeric: tabular-nums }
.small { color: var(--soft); font-size: .8rem }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  margin-top: .75rem }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .5rem .85rem; vertical-align: top; border-top: 1px solid var(--line) }
thead th { border-top: 0; color: var(--soft); font-weight: 500; font-size: .82rem; white-space: nowrap }
.number { text-align: right }
td[data-name=required], td[data-name=measured] { white-space: nowrap }
.examples td { font: .85rem ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere }
.holds { color: var(--good); font-weight: 600 }
tr.no .holds { color: var(--bad) } tr.no.warning .holds { color: var(--warn) }
details { margin-top: .6rem } summary { cursor: pointer; color: var(--soft); font-size: .9rem }
footer { border-top: 1px solid var(--line); padding-top: 1.5rem }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .8rem 1.5rem }
.facts dd { overflow-wrap: anywhere }
@media (max-width: 34rem) {
  main { padding: .75rem .75rem 3rem } header { padding: 1.1rem 1.15rem; border-radius: 12px }
  .tiles { grid-template-columns: 1fr 1fr } .when code { display: block; margin: 0 }
  th, td { padding: .45rem .6rem }
  .stacked thead { display: none }
  .stacked tr { display: block; padding: .6rem .8rem; border-top: 1px solid var(--line) }
  .stacked tr:first-child { border-top: 0 }
  .stacked td { display: block; border: 0; padding: .05rem 0; text-align: left }
  .stacked td:empty { display: none }
  .stacked td[data-name]::before { content: attr(data-name) ": "; color: var(--soft) }
  tr:not(.no) > [data-name="rows against it"] { display: none }
}
@media print {
  :root { --paper: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb; --good: #17714a; --bad: #b3261e;
    --warn: #8a5a00; --good-wash: #fff; --bad-wash: #fff; --warn-wash: #fff }
  main { max-width: none; padding: 0 } body { font-size: 11pt }
  article, .tiles div, tr { break-inside: avoid } h2 { break-after: avoid } .scroll { overflow: visible }
  details::details-content { content-visibility: visible; block-size: auto }
}
"""
