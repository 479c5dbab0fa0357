"""Which requests are begun in a turn of the event loop, and in which order the others follow."""

from collections.abc import Callable
from typing import Final

import pytest
from jobstatus.rest.turns import Begin, TurnLimits, Turns

SECONDS: Final = 1.0
COST: Final = 0.25
"""Of each request: four of them fill a turn."""
MOST: Final = 8


class Loop:
    """An event loop whose turns and clocks a test moves, and what was begun in it, in order."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []
        self.now = 100.0
        self.work = 0.0
        self.begun: list[str] = []

    def call_soon(self, function: Callable[[], None]) -> None:
        self.due.append(function)

    def begin_turn(self, work: float = 0.0) -> list[str]:
        """Begin the next turn, after one that took so much work; return what it begins."""
        self.work += work
        self.begun = []
        due, self.due = self.due, []
        for function in due:
            function()
        return self.begun

    def request(self, name: str, cost: float = COST) -> Begin:
        """Return what begins a request, which takes so long."""

        def begin() -> bool:
            self.now += cost
            self.begun.append(name)
            return True

        return begin


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def turns(loop: Loop) -> Turns:
    return Turns(
        TurnLimits(seconds=SECONDS, most=MOST),
        call_soon=loop.call_soon,
        clock=lambda: loop.now,
        work_clock=lambda: loop.work,
    )


def wait(turns: Turns, loop: Loop, who: str | None, count: int, *, address: str = "", cost: float = COST) -> None:
    """Have so many requests wait, named after who sends them."""
    for number in range(count):
        turns.wait(who, address, loop.request(f"{who or address} {number}", cost))


def test_a_turn_has_time_for_what_arrives_until_it_is_full(turns: Turns, loop: Loop) -> None:
    """And the next turn has as much again."""
    assert turns.has_time()
    loop.now += SECONDS - COST
    assert turns.has_time()
    loop.now += COST
    assert not turns.has_time()
    assert loop.begin_turn() == []
    assert loop.due == []
    assert turns.has_time()


def test_a_turn_after_a_long_pause_begins_when_the_first_request_arrives(turns: Turns, loop: Loop) -> None:
    """A quiet service is never full."""
    for _ in range(3):
        loop.now += 100 * SECONDS
        assert turns.has_time()
        loop.begin_turn()


def test_while_any_request_waits_others_do_too(turns: Turns, loop: Loop) -> None:
    """So nobody is overtaken by those of the same client that arrive later."""
    wait(turns, loop, "flood", 5)
    assert not turns.has_time()
    loop.begin_turn()
    assert not turns.has_time()
    loop.begin_turn()
    assert turns.has_time()


def test_a_client_with_one_request_is_begun_first_behind_a_flood(turns: Turns, loop: Loop) -> None:
    """One of each client is begun in rotation."""
    wait(turns, loop, "flood", 1000)
    loop.begin_turn()
    wait(turns, loop, "good", 1)
    wait(turns, loop, "other", 2)
    assert loop.begin_turn() == ["flood 4", "good 0", "other 0", "flood 5"]
    assert loop.begin_turn() == ["other 1", "flood 6", "flood 7", "flood 8"]


def test_requests_of_one_client_are_begun_in_order(turns: Turns, loop: Loop) -> None:
    """Over as many turns as they take."""
    wait(turns, loop, "client", 6)
    begun = [loop.begin_turn() for _ in range(3)]
    assert begun == [[f"client {number}" for number in range(4)], ["client 4", "client 5"], []]
    assert loop.due == []


def test_strangers_have_half_of_the_time_whatever_theirs_cost(turns: Turns, loop: Loop) -> None:
    """As have those who are known; each address has a lane."""
    wait(turns, loop, None, 2, address="192.0.2.1", cost=4 * COST)
    wait(turns, loop, None, 1, address="192.0.2.2", cost=4 * COST)
    wait(turns, loop, "good", 6)
    assert loop.begin_turn() == ["good 0", "good 1", "192.0.2.1 0"]
    assert loop.begin_turn() == ["good 2", "good 3", "192.0.2.2 0"]
    assert loop.begin_turn() == ["good 4", "good 5", "192.0.2.1 1"]


def test_strangers_alone_have_the_whole_time(turns: Turns, loop: Loop) -> None:
    """As have those who are known where no stranger waits."""
    wait(turns, loop, None, 10, address="192.0.2.1")
    assert len(loop.begin_turn()) == 4


def test_an_address_without_a_credential_is_no_client_of_that_name(turns: Turns, loop: Loop) -> None:
    """A virtual key may have any id."""
    wait(turns, loop, None, 1, address="name")
    wait(turns, loop, "name", 1)
    assert sorted(loop.begin_turn()) == ["name 0", "name 0"]


def test_fewer_are_begun_after_turns_that_took_too_much_work(turns: Turns, loop: Loop) -> None:
    """Half as many after each, one at least, and one more after any other."""
    wait(turns, loop, "flood", 1000, cost=0)
    too_much, little = 2 * SECONDS + COST, SECONDS
    work = [little, too_much, too_much, too_much, too_much, little, little, too_much]
    assert [len(loop.begin_turn(each)) for each in work] == [8, 4, 2, 1, 1, 2, 3, 1]
    for _ in range(2 * MOST):
        loop.begin_turn(little)
    assert len(loop.begin_turn(little)) == MOST


def test_clients_that_have_gone_take_nobodys_place(turns: Turns, loop: Loop) -> None:
    """The next one is begun in their stead."""
    wait(turns, loop, "flood", 1, cost=0)
    for _ in range(5):
        turns.wait("flood", "", lambda: False)
    wait(turns, loop, "flood", MOST, cost=0)
    assert len(loop.begin_turn()) == MOST


def test_a_request_that_fails_holds_up_nobody(turns: Turns, loop: Loop) -> None:
    """The loop reports its error, and turns go on."""

    def fail() -> bool:
        raise ZeroDivisionError

    turns.wait("good", "", fail)
    wait(turns, loop, "good", 1)
    with pytest.raises(ZeroDivisionError):
        loop.begin_turn()
    assert loop.begin_turn() == ["good 0"]


def test_all_are_begun_at_a_stop(turns: Turns, loop: Loop) -> None:
    """Because no turn may come."""
    wait(turns, loop, "flood", 100)
    wait(turns, loop, None, 100, address="192.0.2.1")
    turns.begin_all()
    assert len(loop.begun) == 200
    assert loop.begin_turn() == []
