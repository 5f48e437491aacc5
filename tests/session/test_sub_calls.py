"""The runner's side of SUB_CALL, with real SUB workers and without a runner."""

from __future__ import annotations

import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from simpler.callables import content_of
from simpler.errors import WorkerDied
from simpler.inner_callables import InnerCallables
from simpler.inner_worker import InnerWorker
from simpler.result_record import decode_result
from simpler.wire.command_messages import SubCall, SubCallReply
from simpler.wire.control_messages import Manifest
from simpler.wire.frames import Flags, Header, MessageType
from simpler.wire.messages import Message
from simpler.wire.task_args import RemoteArgs
from simpler.wire.unanswered import Call
from simplerd.runner.buffers import SessionBuffers
from simplerd.runner.control_protocol import Launch
from simplerd.runner.outputs import SessionOutputs
from simplerd.runner.received import Receiver
from simplerd.runner.sub_calls import SubCalls

pytestmark = pytest.mark.slow
TIMEOUT_S = 20.0


class Scene:
    """The calls of a session with one SUB worker, and a callable that reads the file that it is told."""

    def __init__(self, worker: InnerWorker) -> None:
        assert worker.region is not None
        manifest = Manifest(platform="sim", runtime="graph", num_sub_workers=1)
        launch = Launch("s-1", 1, 2, b"", "host", "/", [], manifest, 1.0, 1.0, 1.0)
        buffers = SessionBuffers(worker.region, "s-1")
        receiver = Receiver(worker.region, buffers, SessionOutputs(worker.region, "s-1"))
        callables = InnerCallables(worker, None, "session s-1")
        content = content_of(lambda args: open(args.scalar(0)).read())  # noqa: PTH123, SIM115
        callables.register(content)
        self.calls, self._digest, self._sequence = SubCalls(launch, worker, callables, receiver, buffers), content, 0

    def begin(self, path: Path) -> int:
        self._sequence += 1
        header = Header(MessageType.SUB_CALL, Flags.NONE, 1, 0, self._sequence, 0, 0)
        request = SubCall(digest=self._digest.digest, args=RemoteArgs(scalars=[str(path)]).encode())
        self.calls.begin(Call(header, request, memoryview(b""), None))
        return self._sequence

    def answers(self, count: int) -> dict[int, Message | Exception]:
        answers: dict[int, Message | Exception] = {}
        while len(answers) < count:
            assert select.select([self.calls.fd], [], [], TIMEOUT_S)[0] or self.calls.are_under_way
            answers |= {call.header.sequence: answer for call, answer in self.calls.ended()}
        return answers


@pytest.fixture
def scene() -> Iterator[Scene]:
    worker = InnerWorker(level=3, num_sub_workers=1, heap_bytes=1 << 24)
    worker.init_notifying()
    made = Scene(worker)
    yield made
    made.calls.end()
    del made.calls
    worker.close()


def test_calls_of_a_lost_stream_have_failed_and_the_next_go_on(scene: Scene, fifo: Path, tmp_path: Path) -> None:
    waiting = scene.begin(fifo)
    (tmp_path / "text").write_text("goes on")
    with fifo.open("w"):  # once it is read
        stream = scene.calls._stream
        assert stream is not None
        stream.cancel()  # from here on it takes as little as one whose region was recovered
        then = scene.begin(tmp_path / "text")
    answers = scene.answers(2)
    lost, reply = answers[waiting], answers[then]
    assert isinstance(lost, WorkerDied)
    assert "whether the call has run is not known" in str(lost)
    assert lost.context["sequence"] == waiting
    assert isinstance(reply, SubCallReply)
    assert decode_result(reply.result or b"") == "goes on"
    assert not scene.calls.are_under_way
