"""What a peer of protocol version 1 takes from a program; docs/protocol.md says the same."""

from __future__ import annotations

from simpler.wire.frames import MessageType

VERSION_1 = {
    MessageType.HELLO: {"versions", "program", "pid"},
    MessageType.OPEN: {"manifest"},
    MessageType.CLOSE: {"session", "reason"},
    MessageType.ATTACH: {"session", "token", "lane"},
    MessageType.TASK: {"digest", "args"},
    MessageType.REGISTER: {"digest"},
    MessageType.UNREGISTER: {"digest"},
    MessageType.MALLOC: {"nbytes"},
    MessageType.FREE: {"buffer", "generation"},
    MessageType.TRACE: {"since_ns"},
    MessageType.COPY_TO: {"buffer", "generation", "offset"},
    MessageType.COPY_FROM: {"buffer", "generation", "offset", "nbytes"},
}
"""All that a daemon of version 1 takes; it refuses any other type and any other field."""
