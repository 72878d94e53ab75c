"""Which requests are cut for being slow."""

from __future__ import annotations

from libtz.sources.stragglers import HEDGES_MIN, Pace

MIB = 1 << 20


def used(pace: Pace, count: int = 10, rate: int = 100 * MIB) -> Pace:
    for _ in range(count):
        pace.note_head(0.01)
        pace.note_body(16 * MIB, 16 * MIB / rate)
    return pace


def test_nothing_is_judged_before_something_is_known() -> None:
    assert not used(Pace(), count=3).is_straggling(0, 10)
    assert used(Pace(), count=3).head_timeout_s(30) == 30


def test_far_slower_than_most() -> None:
    pace = used(Pace())
    assert pace.is_straggling(0, 2)
    assert pace.is_straggling(19 * MIB, 2)
    assert not pace.is_straggling(21 * MIB, 2)
    assert not pace.is_straggling(0, 1.9)
    assert pace.head_timeout_s(30) == 2
    assert pace.head_timeout_s(1) == 1


def test_slow_is_what_is_slower_than_now_not_than_once() -> None:
    pace = used(used(Pace()), count=30, rate=MIB)
    assert not pace.is_straggling(MIB, 2)


def test_late_answers_are_not_cut_where_all_are_late() -> None:
    pace = Pace()
    for _ in range(10):
        pace.note_head(1.5)
    assert pace.head_timeout_s(30) == 15


def test_hedges_are_few() -> None:
    pace = used(Pace(), count=8)
    for _ in range(HEDGES_MIN + 1):
        assert pace.is_straggling(0, 10)
        pace.note_hedge()
    assert not pace.is_straggling(0, 10)
    assert pace.head_timeout_s(30) == 30


def test_small_bodies_say_nothing() -> None:
    pace = Pace()
    for _ in range(10):
        pace.note_body(1000, 0.0)
    assert not pace.is_straggling(0, 10)
