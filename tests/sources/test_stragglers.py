"""Which requests are restarted because they are slow."""

from __future__ import annotations

from libtz.sources.stragglers import RESTARTS_MIN, Stragglers

MIB = 1 << 20


def used(stragglers: Stragglers, count: int = 10, rate: int = 100 * MIB) -> Stragglers:
    for _ in range(count):
        stragglers.note_head(0.01)
        stragglers.note_body(16 * MIB, 16 * MIB / rate)
    return stragglers


def test_nothing_is_judged_before_something_is_known() -> None:
    assert not used(Stragglers(), count=3).is_straggling(0, 10)
    assert used(Stragglers(), count=3).head_timeout_s(30) == 30


def test_far_slower_than_most() -> None:
    stragglers = used(Stragglers())
    assert stragglers.is_straggling(0, 2)
    assert stragglers.is_straggling(19 * MIB, 2)
    assert not stragglers.is_straggling(21 * MIB, 2)
    assert not stragglers.is_straggling(0, 1.9)
    assert stragglers.head_timeout_s(30) == 2
    assert stragglers.head_timeout_s(1) == 1


def test_slow_is_what_is_slower_than_now_not_than_once() -> None:
    stragglers = used(used(Stragglers()), count=30, rate=MIB)
    assert not stragglers.is_straggling(MIB, 2)


def test_late_answers_are_not_cut_where_all_are_late() -> None:
    stragglers = Stragglers()
    for _ in range(10):
        stragglers.note_head(1.5)
    assert stragglers.head_timeout_s(30) == 15


def test_restarts_are_few() -> None:
    stragglers = used(Stragglers(), count=8)
    for _ in range(RESTARTS_MIN + 1):
        assert stragglers.is_straggling(0, 10)
        stragglers.note_restart()
    assert not stragglers.is_straggling(0, 10)
    assert stragglers.head_timeout_s(30) == 30


def test_small_bodies_say_nothing() -> None:
    stragglers = Stragglers()
    for _ in range(10):
        stragglers.note_body(1000, 0.0)
    assert not stragglers.is_straggling(0, 10)
