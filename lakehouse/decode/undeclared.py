"""Fields that nobody declared, counted by name: bounded, since names may be ids."""

from __future__ import annotations

from collections import Counter

KEPT = 50
"""Names that are counted each; the rest is counted together. A manifest and a commit hold them, once per slot."""
OTHERS = "(other fields)"
_LONGEST_NAME = 100
"""Characters of a name that are kept."""


def top_names(counts: Counter[str]) -> Counter[str]:
    """The most frequent names, alphabetically where they are equal, and under `OTHERS` the sum of the others' counts.

    May be given what it gave before, added up: exact up to `KEPT` names, and the total is exact always.
    """
    if len(counts) <= KEPT and all(len(name) <= _LONGEST_NAME for name in counts):
        return counts
    shortened: Counter[str] = Counter()
    for name, count in counts.items():
        shortened[name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"] += count
    others = shortened.pop(OTHERS, 0)
    ranked = sorted(shortened.items(), key=lambda each: (-each[1], each[0]))
    top = Counter(dict(ranked[:KEPT]))
    if others := others + sum(count for _, count in ranked[KEPT:]):
        top[OTHERS] = others
    return top
