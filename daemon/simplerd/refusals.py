"""The log of what clients were refused: one line each, but never so many that the log is the damage.

Rules
  1. Of one identity REFUSALS_LOGGED lines are written in REFUSALS_WINDOW_S; of what comes beyond, their number, when
     the window is over. So a flood is seen for what it is, and hides nobody else's refusals.
  2. Who was refused has the whole text, which may repeat all that he sent; the log gets its beginning.
  3. What is kept is bounded: identities beyond REFUSED_IDENTITIES in one window are counted together.
"""

from __future__ import annotations

from collections import Counter

import trio

from simpler import limits
from simpler.errors import SimplerError
from simplerd.counts import LabelledCount
from simplerd.log import beginning, get_logger
from simplerd.sessions import Peer

OTHERS = "others"

_log = get_logger("refused")


class Refusals:
    """What was refused lately. Belongs to the trio thread; `run` it for as long as the daemon serves."""

    def __init__(self, window_s: float = limits.REFUSALS_WINDOW_S) -> None:
        self._window_s = window_s
        self._counts: Counter[str] = Counter()
        self._begun = trio.Event()
        self.total = LabelledCount()
        """By code, for ever."""

    def refused(self, peer: Peer, error: SimplerError) -> None:
        """`peer` was told `error`."""
        self.note(peer, str(error.context.get("reason", error.code)), error.message)

    def note(self, peer: Peer, code: str, reason: str) -> None:
        """`peer` was refused, and why."""
        self.total.add(code)
        identity = peer.identity
        if identity not in self._counts and len(self._counts) >= limits.REFUSED_IDENTITIES:
            identity = OTHERS
        self._counts[identity] += 1
        self._begun.set()
        if self._counts[identity] <= limits.REFUSALS_LOGGED:
            _log.warning("a client was refused", peer=str(peer), code=code, reason=beginning(reason))

    async def run(self) -> None:
        """Ends each window."""
        while True:
            await self._begun.wait()  # no deadline: it is good when nobody is refused
            await trio.sleep(self._window_s)
            for identity, count in self._counts.items():
                if count > limits.REFUSALS_LOGGED:
                    more = count - limits.REFUSALS_LOGGED
                    _log.warning("more was refused", client=identity, times=more, in_s=self._window_s)
            self._counts.clear()
            self._begun = trio.Event()
