"""Which call goes to whom, and when."""

from __future__ import annotations

from simpler import limits
from simpler.executor import CallFuture, CallOptions
from simpler.executor.calls.placement import PlacedCall
from simpler.executor.engine.dispatcher import Call, Dispatcher, Target


def _call() -> Call:
    return Call(CallFuture(), len, CallOptions(), PlacedCall(b"payload"), 0)


def _send_all(dispatcher: Dispatcher) -> list[tuple[Call, Target]]:
    sent: list[tuple[Call, Target]] = []
    while (found := dispatcher.next()) is not None:
        dispatcher.sent(*found, task=len(sent) + 1)
        sent.append(found)
    return sent


def test_a_window_of_calls_is_sent_in_their_order_and_the_rest_waits() -> None:
    dispatcher, calls = Dispatcher(), [_call() for _ in range(20)]
    for call in calls:
        dispatcher.add(call)
    assert dispatcher.next() is None
    dispatcher.targets = [Target(0, 3)]
    sent = _send_all(dispatcher)
    assert [call for call, _ in sent] == calls[: 3 * limits.CALLS_AHEAD]
    assert len(dispatcher) == 20 - len(sent)
    dispatcher.ended(calls[0], 1)
    assert [call for call, _ in _send_all(dispatcher)] == [calls[len(sent)]]


def test_the_next_call_goes_where_least_is_under_way_for_each_worker() -> None:
    dispatcher, small, large = Dispatcher(), Target(0, 1), Target(1, 3)
    dispatcher.targets = [small, large]
    for _ in range(8):
        dispatcher.add(_call())
    targets = [target for _, target in _send_all(dispatcher)]
    assert (targets.count(small), targets.count(large)) == (2, 6)
    dispatcher.drop(large)
    dispatcher.add(_call())
    assert dispatcher.next() is None
    assert dispatcher.targets == [small]


def test_the_window_grows_while_calls_are_quick_and_shrinks_again() -> None:
    target, now_ns = Target(0, 2), 0
    low = target.window
    for _ in range(200):
        now_ns += 10_000
        target.measure(1, now_ns)
    assert target.window == 2 * limits.QUICK_CALLS_AHEAD
    for _ in range(200):
        now_ns += 1_000_000_000
        target.measure(1, now_ns)
    assert target.window == low


def test_a_call_that_is_removed_or_just_being_sent_is_passed_over() -> None:
    dispatcher, calls = Dispatcher(), [_call() for _ in range(3)]
    dispatcher.targets = [Target(0, 2)]
    for call in calls:
        dispatcher.add(call)
    calls[0].is_being_sent = True
    assert dispatcher.remove(calls[1].future) is calls[1]
    assert dispatcher.remove(calls[1].future) is None
    found = dispatcher.next()
    assert found is not None
    assert found[0] is calls[2]
    dispatcher.is_full = True
    assert dispatcher.next() is None


def test_a_target_that_is_slow_gets_no_more_because_another_is_quick() -> None:
    dispatcher, slow, quick = Dispatcher(), Target(0, 2), Target(1, 2)
    low, dispatcher.targets = slow.window, [slow, quick]
    slow.in_flight.add(0)
    for number in range(1, 200):
        quick.in_flight.add(number)
        dispatcher.measure([number], 10_000 * number)
    assert (slow.window, quick.window) == (low, 2 * limits.QUICK_CALLS_AHEAD)
