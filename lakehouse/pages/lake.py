"""The pages above the hours': a lake's topics by hours as a coloured grid, and one topic's hours as a table."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from html import escape
from itertools import groupby

from lakehouse.hours import Hour
from lakehouse.pages.hour import STYLE

STATES = ("open", "held", "closed", "sealed", "valid", "invalid", "released", "mirrored")
_SIGNS = {"open": "·", "held": "H", "closed": "C", "sealed": "S", "valid": "V", "invalid": "✕", "released": "R",
          "mirrored": "✓"}  # fmt: skip
"""Colour is not for everyone: each state has a sign, too."""
_MEANS = {
    "open": "events are still delivered in it",
    "held": "should have closed by the clock, and has not",
    "closed": "nothing is added to it any more",
    "sealed": "one row per event, waits to be validated",
    "valid": "as expected, waits for its mirrors",
    "invalid": "held back until it is released or sealed anew",
    "released": "let go by a person, waits for its mirrors",
    "mirrored": "everywhere it goes",
}


@dataclass(frozen=True)
class Line:
    """One topic's row of the grid: what each hour is, and a complaint where the topic could not be read."""

    topic: str
    states: Mapping[Hour, str] = field(default_factory=dict)
    complaint: str | None = None


@dataclass(frozen=True)
class HourLine:
    """One hour's row of a topic's table; `cells` stand under `HOUR_COLUMNS`."""

    hour: Hour
    state: str
    cells: Sequence[str]


HOUR_COLUMNS = ("rows", "duplicates", "skewed", "verdict", "waits for", "mirrored to", "end to closed", "to mirrored")
_NUMBERS = {"rows", "duplicates", "skewed", "end to closed", "to mirrored"}


def index(lines: Sequence[Line], hours: Sequence[Hour], built_at: datetime, release: str) -> str:
    """The lake's page: topics by hours, newest hour last, each cell a link to the hour's page."""
    counts = {state: sum(state in line.states.values() for line in lines) for state in STATES}
    chips = "".join(
        f'<label class="chip s-{state}" title="{escape(_MEANS[state])}"><input type="checkbox" value="{state}">'
        f"<i>{_SIGNS[state]}</i>{state}<b>{counts[state]}</b></label>"
        for state in STATES
    )
    body = f"""<header class="top"><h1>The lake, hour by hour</h1>
<p class="when">{len(lines):,} {"topic" if len(lines) == 1 else "topics"} · {_span(hours)} ·
as of <time datetime="{built_at.isoformat()}">{built_at:%Y-%m-%d %H:%M:%S} UTC</time> ·
release {escape(release)}</p></header>
<form class="filter" role="search">
<input type="search" placeholder="Topics whose name has …" aria-label="Filter topics">
<div class="chips" role="group" aria-label="Topics with an hour that is">{chips}</div>
<output>{len(lines)} of {len(lines)} topics</output></form>
<div class="scroll wide"><div class="grid" style="--columns:{len(hours)}">
{_heads(hours)}
{"".join(_row(line, hours) for line in lines)}</div></div>
<p class="small">Days and hours are UTC. A blank cell: nothing is known of the hour.
The number beside a state counts topics.</p>"""
    return _page("The lake, hour by hour", body, script=True)


def topic_page(topic: str, lines: Sequence[HourLine], facts: Iterable[tuple[str, str]], volume: str) -> str:
    """A topic's page: where it stands, its rows over time, and a line per hour, newest first."""
    told = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    heads = "".join(f"<th{_side(name)}>{name}</th>" for name in ("hour", "state", *HOUR_COLUMNS))
    rows = "\n".join(_hour_row(line) for line in reversed(lines))
    chart = f"<section><h2>Rows, hour by hour</h2>{volume}</section>" if volume else ""
    body = f"""<nav><a href="../index.html">All topics</a></nav>
<header class="top"><h1>{escape(topic)}</h1></header>
<dl class="facts">{told}</dl>
{chart}
<section><h2>{len(lines)} {"hour" if len(lines) == 1 else "hours"}</h2>
<div class="scroll stacked"><table class="hours"><thead><tr>{heads}</tr></thead><tbody>
{rows}
</tbody></table></div></section>"""
    return _page(topic, body, script=False)


def _hour_row(line: HourLine) -> str:
    cells = "".join(
        f"<td{_side(name)} data-name='{name}'>{escape(cell)}</td>"
        for name, cell in zip(HOUR_COLUMNS, line.cells, strict=True)
    )
    hour = escape(line.hour)
    return (
        f"<tr><td><a href='{hour}.html'><code>{hour}</code></a></td>"
        f"<td><span class='state s-{line.state}'>{_SIGNS.get(line.state, '')} {line.state}</span></td>{cells}</tr>"
    )


def _side(name: str) -> str:
    return " class='number'" if name in _NUMBERS else ""


# --- the grid ------------------------------------------------------------------------------------------------------


def _heads(hours: Sequence[Hour]) -> str:
    days = "".join(
        f'<span style="grid-column:span {len(list(of_day))}">{_day(day)}</span>'
        for day, of_day in groupby(hours, key=lambda hour: hour[:10])
    )
    marks = "".join(f"<span>{hour[11:13] if int(hour[11:13]) % 3 == 0 else ''}</span>" for hour in hours)
    return (
        f'<div class="row head days"><b></b><div class="cells">{days}</div></div>\n'
        f'<div class="row head marks" data-hours="{" ".join(hours)}"><b>topic</b><div class="cells">{marks}</div></div>'
    )


def _day(day: str) -> str:
    return f"{date.fromisoformat(day):%a %-d %b}"


def _row(line: Line, hours: Sequence[Hour]) -> str:
    name = escape(line.topic)
    if line.complaint:
        return (
            f'<div class="row" data-topic="{name}" data-states="error"><b>{name}</b>'
            f'<p class="complaint">{escape(line.complaint)}</p></div>\n'
        )
    cells = "".join(_cell(line.topic, hour, line.states.get(hour)) for hour in hours)
    states = " ".join(sorted(set(line.states.values())))
    return (
        f'<div class="row" data-topic="{name}" data-states="{states}"><b><a href="{name}/index.html">{name}</a></b>'
        f'<div class="cells">{cells}</div></div>\n'
    )


def _cell(topic: str, hour: Hour, state: str | None) -> str:
    if state is None:
        return "<i></i>"
    return f'<a class="s-{state}" href="{escape(topic)}/{hour}.html">{_SIGNS.get(state, "?")}</a>'


def _span(hours: Sequence[Hour]) -> str:
    return f"{hours[0]} to {hours[-1]}" if hours else "no hours yet"


# --- the sheet -----------------------------------------------------------------------------------------------------


def _page(title: str, body: str, *, script: bool) -> str:
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    allowed = f"; script-src 'sha256-{digest}'" if script else ""
    code = f"<script>{_SCRIPT}</script>\n" if script else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:{allowed}">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{STYLE}{_STYLE}</style>
</head>
<body>
<main class="overview">
{body}
</main>
{code}</body>
</html>
"""


_SCRIPT = """
const search = document.querySelector('input[type=search]'), told = document.querySelector('output');
const chips = [...document.querySelectorAll('.chip input')], grid = document.querySelector('.grid');
const rows = [...document.querySelectorAll('.row[data-topic]')], wide = document.querySelector('.wide');
const hours = document.querySelector('.marks').dataset.hours.split(' ');
const asked = new URLSearchParams(location.hash.slice(1));
search.value = asked.get('name') || '';
for (const chip of chips) chip.checked = (asked.get('state') || '').split(',').includes(chip.value);
function filter() {
  const name = search.value.trim().toLowerCase(), states = chips.filter(c => c.checked).map(c => c.value);
  let shown = 0;
  for (const row of rows) {
    const has = row.dataset.states.split(' ');
    const isNamed = row.dataset.topic.toLowerCase().includes(name);
    row.hidden = !(isNamed && (!states.length || states.some(s => has.includes(s))));
    shown += !row.hidden;
  }
  grid.className = ['grid', states.length && 'some', ...states.map(s => 'f-' + s)].filter(Boolean).join(' ');
  told.textContent = shown + ' of ' + rows.length + ' topics';
  const kept = new URLSearchParams();
  if (name) kept.set('name', name);
  if (states.length) kept.set('state', states.join(','));
  history.replaceState(null, '', kept.size ? '#' + kept : location.pathname + location.search);
}
search.addEventListener('input', filter);
for (const chip of chips) chip.addEventListener('change', filter);
document.querySelector('form').addEventListener('submit', event => event.preventDefault());
function tell(event) {
  const cell = event.target;
  if (cell.parentElement?.className !== 'cells' || cell.title || cell.tagName !== 'A') return;
  const place = [...cell.parentElement.children].indexOf(cell), topic = cell.closest('.row').dataset.topic;
  cell.title = topic + ' ' + hours[place] + ': ' + cell.className.slice(2);
  cell.setAttribute('aria-label', cell.title);
}
grid.addEventListener('mouseover', tell);
grid.addEventListener('focusin', tell);
if (search.value || chips.some(c => c.checked)) filter();
wide.scrollLeft = wide.scrollWidth;
"""

_COLOURS = {
    # state: (light background, light ink, dark background, dark ink)
    "open": ("#e9ecf1", "#5b6472", "#2a2f38", "#9aa4b4"),
    "held": ("#f3c35b", "#4a3200", "#b9862a", "#1c1400"),
    "closed": ("#bcc6d4", "#2c3644", "#566274", "#eef1f5"),
    "sealed": ("#8fb4e3", "#0f2c50", "#3e6aa6", "#eef4fc"),
    "valid": ("#a9dcc0", "#0d4a2e", "#2b6b4b", "#dff5e9"),
    "invalid": ("#c9342a", "#ffffff", "#e5584d", "#1d0503"),
    "released": ("#b598e6", "#2c1257", "#7a58b8", "#f5efff"),
    "mirrored": ("#3f9a6c", "#ffffff", "#3c9468", "#06170e"),
}
_LIGHT = "".join(f"--{name}: {back}; --{name}-ink: {ink}; " for name, (back, ink, _, _) in _COLOURS.items())
_DARK = "".join(f"--{name}: {back}; --{name}-ink: {ink}; " for name, (_, _, back, ink) in _COLOURS.items())
_OF_STATES = "".join(
    f".s-{state} {{ --b: var(--{state}); --i: var(--{state}-ink) }}\n"
    f".grid.some.f-{state} .cells .s-{state} {{ opacity: 1 }}\n"
    for state in STATES
)

_STYLE = (
    f"""
:root {{ {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
{_OF_STATES}"""
    + """
main.overview { max-width: 96rem }
header.top { background: none; border: 0; padding: 0; margin-bottom: 1.25rem }
header.top h1 { color: var(--ink); font-size: clamp(1.6rem, 4vw, 2.2rem) }
.filter { display: flex; flex-wrap: wrap; gap: .75rem 1rem; align-items: center; margin-bottom: 1rem }
.filter input[type=search] { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; padding: .45rem .8rem; width: 17rem; max-width: 100% }
.chips { display: flex; flex-wrap: wrap; gap: .4rem }
.chip { display: inline-flex; align-items: center; gap: .4em; border: 1px solid var(--line); background: var(--card);
  border-radius: 99px; padding: .2rem .7rem .2rem .3rem; font-size: .85rem; cursor: pointer }
.chip input { position: absolute; opacity: 0; pointer-events: none }
.chip i { display: grid; place-items: center; width: 1.5em; height: 1.5em; border-radius: 50%; font-style: normal;
  font-weight: 600; background: var(--b); color: var(--i) }
.chip b { color: var(--soft); font-weight: 500; font-variant-numeric: tabular-nums }
.chip:has(input:checked) { border-color: var(--ink); box-shadow: inset 0 0 0 1px var(--ink) }
.chip:has(input:focus-visible) { outline: 2px solid var(--accent); outline-offset: 2px }
output { color: var(--soft); font-size: .9rem; font-variant-numeric: tabular-nums; margin-left: auto }
.wide { max-height: 82vh; overflow: auto; margin: 0 0 .75rem }
.grid { --cell: 17px; --name: 15rem; width: max-content; min-width: 100%; padding-bottom: .5rem }
.row { display: grid; grid-template-columns: var(--name) max-content; height: 24px; align-items: center }
.row:not(.head) { content-visibility: auto; contain-intrinsic-size: auto 24px }
.row[hidden] { display: none }
.row > b { position: sticky; left: 0; z-index: 1; background: var(--card); font-weight: 400; font-size: .88rem;
  padding: 0 .75rem 0 1rem; height: 24px; line-height: 24px; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap }
.row > b a { color: inherit; text-decoration: none } .row > b a:hover { text-decoration: underline }
.row:hover > b { background: var(--wash-accent) }
.cells { display: grid; grid-template-columns: repeat(var(--columns), var(--cell)); gap: 2px; padding-right: .75rem }
.cells a, .cells i { display: block; height: 20px; border-radius: 4px }
.cells a { background: var(--b); color: var(--i); font: 600 10px/20px system-ui, sans-serif; text-align: center;
  text-decoration: none }
.cells a:hover, .cells a:focus-visible { outline: 2px solid var(--ink); outline-offset: 0 }
.grid.some .cells a { opacity: .13 }
.head { position: sticky; z-index: 2; background: var(--card) }
.head > b { color: var(--soft); font-size: .8rem; z-index: 3 }
.head span { font-size: .72rem; color: var(--soft); text-align: center; font-variant-numeric: tabular-nums }
.head.days { top: 0 } .head.marks { top: 24px; border-bottom: 1px solid var(--line); margin-bottom: 3px }
.head.days span { text-align: left; border-left: 1px solid var(--line); padding-left: .35rem; overflow: hidden;
  white-space: nowrap; color: var(--ink) }
.complaint { color: var(--bad); font-size: .85rem; white-space: nowrap; position: sticky;
  left: calc(var(--name) + .25rem); width: max-content }
.state { background: var(--b); color: var(--i); border-radius: 99px; padding: .1em .7em; font-size: .82rem;
  white-space: nowrap }
.hours td { white-space: nowrap }
@media (max-width: 34rem) { .grid { --name: 8.5rem } .row > b { padding-left: .6rem; font-size: .8rem }
  .filter input[type=search] { width: 100% } output { margin: 0 } .hours .number { text-align: left } }
@media print { .filter { display: none } .wide { max-height: none; overflow: visible }
  .grid { --cell: 11px; --name: 9rem }
  .row { content-visibility: visible } .cells a, .state { print-color-adjust: exact; -webkit-print-color-adjust: exact }
  .cells a { font-size: 7px } }
"""
)
