from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from elir_deploy.interrupts import Interruption, deferred_interrupts, raise_interruption

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SEEN: list[int | None] = []


class UsualError(Exception):
    """What the handlers of these tests raise."""


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    """Handlers whose effect can be seen."""

    def act(number: int, frame: object) -> None:
        raise UsualError(number)

    SEEN.clear()
    before = {number: signal.signal(number, act) for number in SIGNALS}
    yield
    for number in SIGNALS:
        assert signal.getsignal(number) is act, "given back"
    for number, handler in before.items():
        signal.signal(number, handler)


def held_while(*numbers: int, ending: Exception | None = None, **how: bool) -> list[int | None]:
    """Signals inside a block, and what it had held back before each and at its end."""
    with deferred_interrupts(**how) as held:
        for number in numbers:
            SEEN.append(held.signal)
            signal.raise_signal(number)
        SEEN.append(held.signal)
        if ending is not None:
            raise ending
    return SEEN


@pytest.mark.parametrize(
    ("number", "raised", "code"),
    [(signal.SIGINT, KeyboardInterrupt, None), (signal.SIGTERM, SystemExit, 143)],
)
def test_a_signal_is_raised_at_the_end(
    number: int, raised: type[BaseException], code: int | None
) -> None:
    with pytest.raises(raised) as caught:
        held_while(number)
    assert [None, number] == SEEN
    assert getattr(caught.value, "code", None) == code


def test_without_a_signal_nothing_happens() -> None:
    assert held_while() == [None]


def test_what_the_block_raises_comes_first() -> None:
    with pytest.raises(ValueError, match="own"):
        held_while(signal.SIGINT, ending=ValueError("own"))


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_a_second_signal_has_its_usual_effect(first: int, second: int) -> None:
    with pytest.raises(UsualError, match=str(int(second))):
        held_while(first, second)
    assert [None, first] == SEEN


def test_a_second_signal_may_have_none() -> None:
    with pytest.raises(KeyboardInterrupt):
        held_while(signal.SIGINT, signal.SIGTERM, allow_second=False)
    assert SEEN == [None, signal.SIGINT, signal.SIGINT]


def test_what_is_ignored_stays_ignored() -> None:
    """As Ctrl-C is by a command in the background of a script."""
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deferred_interrupts() as held:
            signal.raise_signal(signal.SIGINT)
            assert held.signal is None
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, usual)


def test_in_another_thread_the_main_one_keeps_its_signals() -> None:
    inside: list[Interruption] = []

    def work() -> None:
        with deferred_interrupts() as held:
            inside.append(held)
            entered.set()
            leave.wait(10)

    entered, leave = threading.Event(), threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    assert entered.wait(10)
    with pytest.raises(UsualError):
        signal.raise_signal(signal.SIGINT)
    leave.set()
    thread.join()
    assert inside[0].signal is None


def test_other_signals_end_as_shells_say() -> None:
    with pytest.raises(SystemExit) as caught:
        raise_interruption(signal.SIGHUP)
    assert caught.value.code == 129
