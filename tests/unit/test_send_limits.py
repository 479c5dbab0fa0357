"""Large answers: who has room for one, and how slowly it may be read. Time passes here as fast as the tests want."""

import asyncio
import logging

import pytest
from harness.logged import events_logged
from harness.skipping_loop import run_without_waiting
from jobstatus.rest.limits import RestLimits
from jobstatus.rest.send_limits import PIECE_BYTES, SLICE_BYTES, LargeResponses, NoRoomForLarge, pieces

KIB = 1024
MIB = 1024 * KIB
LIMITS = RestLimits(max_large_bytes=8 * MIB, large_shares=4, send_seconds=30, least_bytes_per_second=16 * KIB)


class Client:
    """Reads at these rates, each for one slice of an answer, and the rest at the last of them; 0: no more."""

    def __init__(self, *bytes_per_second: float) -> None:
        self._rates = list(bytes_per_second)
        self.read_bytes = 0

    async def write(self, data: bytes | memoryview, /) -> None:
        rate = self._rates.pop(0) if len(self._rates) > 1 else self._rates[0]
        if not rate:
            await asyncio.Event().wait()
        await asyncio.sleep(len(data) / rate)
        self.read_bytes += len(data)


async def sent_to(client: Client, size: int) -> float:
    """How long the client takes to read an answer of this size, in seconds; negative: it was cut off by then."""
    loop = asyncio.get_running_loop()
    try:
        await LIMITS.large_responses().write(client, pieces(b"", bytes(size), b""))
    except TimeoutError:
        return -loop.time()
    return loop.time()


def has_room(large: LargeResponses, reader: str | None, size: int) -> bool:
    try:
        with large.hold(reader, size):
            return True
    except NoRoomForLarge:
        return False


def test_a_reader_gets_no_more_while_it_holds_its_share() -> None:
    """However much room there is; the others, and all admins together, have theirs."""
    large = LIMITS.large_responses()
    with large.hold("vk-1", MIB), large.hold("vk-1", MIB):
        assert not has_room(large, "vk-1", 1)
        assert has_room(large, "vk-2", 2 * MIB)
        with large.hold(None, 2 * MIB):
            assert not has_room(large, None, 1)
            assert has_room(large, "vk-2", 2 * MIB)
    assert has_room(large, "vk-1", 2 * MIB)


def test_all_together_stay_within_the_bound() -> None:
    large = LIMITS.large_responses()
    with large.hold("vk-1", 3 * MIB), large.hold("vk-2", 3 * MIB):
        assert large.held_bytes == 6 * MIB
        assert has_room(large, "vk-3", 2 * MIB)
        assert not has_room(large, "vk-3", 2 * MIB + 1)
    assert large.held_bytes == 0


def test_no_answer_is_too_large_for_ever() -> None:
    """One that is larger than the bound is sent alone."""
    large = LIMITS.large_responses()
    assert has_room(large, "vk-1", 100 * MIB)
    with large.hold("vk-2", 1):
        assert not has_room(large, "vk-1", 100 * MIB)


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, ConnectionResetError, TimeoutError])
def test_what_fails_or_is_cancelled_holds_nothing_more(error: type[BaseException]) -> None:
    large = LIMITS.large_responses()
    with pytest.raises(error), large.hold("vk-1", 2 * MIB):
        raise error
    assert large.held_bytes == 0
    assert has_room(large, "vk-1", 2 * MIB)


def test_each_refusal_is_counted_and_the_first_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    refused: list[None] = []
    large = LIMITS.large_responses(lambda: refused.append(None))
    with caplog.at_level(logging.WARNING), large.hold("vk-1", 2 * MIB):
        assert [has_room(large, "vk-1", 1) for _ in range(3)] == [False] * 3
    assert len(refused) == 3
    assert events_logged(caplog) == ["large_answers_refused"]
    (record,) = caplog.records
    assert vars(record) | {"answers": 1, "held_bytes": 2 * MIB, "virtual_key_id": "vk-1"} == vars(record)


@pytest.mark.parametrize(
    ("rates", "seconds"),
    [
        ((125_000,), 16 * MIB / 125_000),  # 1 Mbit/s: more than two minutes
        ((17 * KIB,), 16 * MIB / (17 * KIB)),
        ((4 * KIB, 16 * MIB), 64 / 4 + (16 * MIB - SLICE_BYTES) / (16 * MIB)),  # slow for a moment
        ((0,), -30),
        ((16 * MIB, 16 * MIB, 0), -(5 / 256 + 30)),  # as long after it has read a part
        ((2 * KIB,), -30),
    ],
)
def test_a_client_is_cut_off_that_stands_still_and_no_other(rates: tuple[float, ...], seconds: float) -> None:
    """A slow one that makes progress is not, however long it takes."""
    assert run_without_waiting(sent_to(Client(*rates), 16 * MIB)) == pytest.approx(seconds, abs=0.01)


def test_a_client_that_reads_far_too_slowly_is_cut_off_although_it_makes_progress() -> None:
    """A slice takes 16 s at 4 KiB a second instead of 4 s, so what follows is late 30 s after those 4 s."""
    client = Client(4 * KIB)
    assert run_without_waiting(sent_to(client, 16 * MIB)) == pytest.approx(-34, abs=0.01)
    assert client.read_bytes == SLICE_BYTES


@pytest.mark.parametrize("size", [0, 1, SLICE_BYTES, 2 * SLICE_BYTES, 2 * SLICE_BYTES + 1, MIB + 7, 16 * MIB])
def test_pieces_are_the_whole_and_the_last_ones_are_copies(size: int) -> None:
    """None is large, few are small, and what a connection may still keep of the end does not keep the whole."""
    document = bytes(range(256)) * (size // 256 + 1)
    document = document[:size]
    found = list(pieces(b"before", document, b"after"))
    assert b"".join(found) == b"before" + document + b"after"
    assert all(0 < len(each) <= PIECE_BYTES for each in found)
    views = [number for number, each in enumerate(found) if isinstance(each, memoryview)]
    assert sum(map(len, found[max(views, default=0) + 1 :])) >= min(size, 2 * SLICE_BYTES) - SLICE_BYTES
    assert len(found) <= size // PIECE_BYTES + 5
