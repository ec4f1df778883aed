"""Fields that nobody declared, counted by name: bounded, since names may be ids."""

from __future__ import annotations

from collections import Counter
from heapq import nsmallest

KEPT = 50
"""Names that are counted each; the rest is counted together. A manifest and a commit hold them, once per slot."""
OTHERS = "(other fields)"
_LONGEST_NAME = 100
"""Characters of a name that are kept."""


def top_names(counts: Counter[str]) -> Counter[str]:
    """The most frequent names, alphabetically where they are equal, and under `OTHERS` the sum of the others' counts.

    May be given what it gave before, added up: exact up to `KEPT` names, and the total is exact always.
    """
    is_short = max(map(len, counts), default=0) <= _LONGEST_NAME
    if is_short and len(counts) <= KEPT:
        return counts
    shortened = counts.copy() if is_short else _most_common(counts)
    others = shortened.pop(OTHERS, 0)
    bound = sorted(shortened.values(), reverse=True)[: KEPT + 1][-1] if len(shortened) > KEPT else 0
    top = Counter({name: count for name, count in shortened.items() if count > bound})
    as_frequent = [name for name, count in shortened.items() if count == bound]
    top.update(dict.fromkeys(nsmallest(KEPT - len(top), as_frequent), bound))
    top = Counter(dict(sorted(top.items(), key=lambda each: (-each[1], each[0]))))
    if others := others + shortened.total() - top.total():
        top[OTHERS] = others
    return top


def _most_common(counts: Counter[str]) -> Counter[str]:
    shortened: Counter[str] = Counter()
    for name, count in counts.items():
        shortened[name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"] += count
    return shortened
