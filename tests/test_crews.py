import threading

from lakehouse.crews import Crew

PATIENCE_SECONDS = 60
"""Only a failing test waits this long."""


def test_a_work_that_ends_makes_place_for_the_next_though_nobody_takes_its_result() -> None:
    """Commits go on while the tasks of the epoch are waited for."""
    crew: Crew[str, None] = Crew(1)
    begun = [threading.Event() for _ in range(3)]
    for number, event in enumerate(begun):
        crew.begin(str(number), event.set)
    assert all(event.wait(PATIENCE_SECONDS) for event in begun)
    assert sorted(key for key, _ in crew.results(PATIENCE_SECONDS)) == ["0", "1", "2"]
    assert not crew.busy
