"""The drop schedule against the counts of the paper."""

from __future__ import annotations

import pytest

from grafs_timm.search.cell import Cell
from grafs_timm.search.shrink import drop_schedule

# start 2, E 50: how many of the 104 drops fall on each epoch
PAPER = {2: 19, 3: 11, 4: 7, 5: 6, 6: 5, 7: 4, 8: 4, 9: 3, 10: 3, 11: 2}


def test_counts_of_the_paper() -> None:
    schedule = drop_schedule(2, 50)
    assert {epoch: schedule[epoch] for epoch in PAPER} == PAPER
    assert sum(schedule.values()) == 104
    assert max(schedule) in (47, 48)
    assert min(schedule) == 2
    late = [count for epoch, count in schedule.items() if epoch >= 12]
    assert sum(late) == 104 - sum(PAPER.values())
    assert max(late) <= 3


@pytest.mark.parametrize(("start", "end"), [(2, 50), (200, 1000), (6, 24), (1, 3), (5, 20), (10, 12)])
def test_every_drop_falls_inside_the_run(start: int, end: int) -> None:
    schedule = drop_schedule(start, end)
    assert sum(schedule.values()) == 104
    assert start <= min(schedule)
    assert max(schedule) <= end - 2 or end == start + 2
    assert max(schedule) < end


@pytest.mark.parametrize(("start", "end"), [(0, 50), (50, 50), (49, 50), (60, 50)])
def test_impossible_schedules_are_refused(start: int, end: int) -> None:
    with pytest.raises(ValueError, match=f"shrink_start={start} of {end} epochs"):
        drop_schedule(start, end)


def test_the_schedule_ends_with_one_survivor_in_each_slot() -> None:
    cell = Cell()
    assert cell.drops_left == 104
    for count in drop_schedule(2, 50).values():
        for _ in range(count):
            cell.drop()
    assert {slot: len(names) for slot, names in cell.survivors.items()} == dict.fromkeys(cell.survivors, 1)
