"""What was pushed in a run, between who pushes and who listens: kept, bounded, in order."""

from __future__ import annotations

import threading

import pytest

from simpler import limits
from simpler.push_mailbox import PushChannel, PushMailbox
from simpler.pushes import RunPushes, push_record
from simpler.region import Region


def put(pushes: RunPushes, topic: str, value: object, room: list[str]) -> bool:
    return pushes.put(topic, push_record(topic, value), lambda: room.append(topic))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PUSHES_WAITING", 3)
    monkeypatch.setattr(limits, "PUSHES_KEPT", 2)


@pytest.mark.usefixtures("small")
def test_who_pushes_more_than_is_told_waits_for_room() -> None:
    pushes, seen, room = RunPushes(), list[object](), list[str]()
    pushes.listen("a", seen.append)
    assert [put(pushes, "a", number, room) for number in range(5)] == [True, True, True, False, False]
    assert room == []
    assert pushes.tell()
    assert (seen, room) == ([0, 1, 2], ["a", "a"])
    assert put(pushes, "a", 3, room)
    assert pushes.tell()
    assert not pushes.tell()
    assert seen == [0, 1, 2, 3]


def test_bytes_are_bounded_too_and_one_value_always_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PUSH_BYTES_WAITING", 1000)
    pushes, seen, room = RunPushes(), list[object](), list[str]()
    pushes.listen("a", seen.append)
    assert put(pushes, "a", bytes(2000), room)
    assert not put(pushes, "a", b"", room)
    pushes.tell()
    assert put(pushes, "a", b"", room)
    assert seen == [bytes(2000)]


@pytest.mark.usefixtures("small")
def test_what_nobody_listens_to_holds_up_nobody_and_is_kept_in_order() -> None:
    pushes, seen, room = RunPushes(), list[object](), list[str]()
    for number in range(5):
        assert put(pushes, "ab"[number % 2], number, room)
    pushes.listen("a", seen.append)
    pushes.listen("b", seen.append)
    pushes.tell()
    assert seen == [4, 3], "the last two, those of the topic that was listened to first before the others"


def test_values_are_told_in_order_whoever_tells_them() -> None:
    pushes, seen, began, go_on = RunPushes(), list[object](), threading.Event(), threading.Event()

    def slowly(value: object) -> None:
        began.set()
        assert go_on.wait(20)
        seen.append(value)

    pushes.listen("a", slowly)
    for number in range(3):
        assert put(pushes, "a", number, [])
    telling = threading.Thread(target=pushes.tell)
    telling.start()
    assert began.wait(20)
    assert not pushes.tell(), "the thread does"
    go_on.set()
    telling.join()
    assert seen == [0, 1, 2]


def test_who_is_interrupted_leaves_the_rest_to_be_told() -> None:
    pushes, seen = RunPushes(), list[object]()

    def interrupted(value: object) -> None:
        seen.append(value)
        if value == 0:
            raise KeyboardInterrupt
        raise ValueError("logged")

    pushes.listen("a", interrupted)
    for number in range(2):
        assert put(pushes, "a", number, [])
    with pytest.raises(KeyboardInterrupt):
        pushes.tell()
    assert pushes.tell()
    assert seen == [0, 1]


def test_a_listener_may_listen_and_each_has_its_own_value() -> None:
    pushes, seen = RunPushes(), list[object]()

    def first(value: object) -> None:
        assert isinstance(value, list)
        value.append("changed")
        pushes.listen("b", seen.append)

    pushes.listen("a", first)
    pushes.listen("a", seen.append)
    assert put(pushes, "b", "kept", [])
    assert put(pushes, "a", [1], [])
    assert pushes.tell()
    assert seen == [[1], "kept"]


def test_at_the_end_all_is_taken_though_another_thread_is_taking() -> None:  # H2
    region = Region.create(workers=1, heap_bytes=1 << 20)
    taken, at_first, go_on = list[str](), threading.Event(), threading.Event()

    def take(run: int, topic: str, record: bytes, when_room: object) -> bool:
        if not taken:
            at_first.set()
            go_on.wait()
        taken.append(topic)
        return True

    mailbox, channel = PushMailbox(region, 0, take), PushChannel(region, 0)
    assert channel.put("first", b"", lambda: None)
    other, ending = threading.Thread(target=mailbox.look), threading.Thread(target=mailbox.take_all, args=(20.0,))
    other.start()
    at_first.wait()
    ending.start()
    assert channel.put("second", b"", lambda: None)
    assert taken == []
    go_on.set()
    ending.join()
    assert taken == ["first", "second"]
    other.join()
    region.close()
