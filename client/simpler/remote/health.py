"""Whether a session's host is still there: who is asked, when its control connection is made anew, when it is given up.

Rules
  1. Whatever comes from the daemon or from the session is a sign of life. A daemon from which nothing came is asked
     with PING, and while it does not answer, the session's lanes are too. So a long task, which keeps the session's own
     process from answering, is no silence: its daemon answers; and a session that idles is let sleep.
  2. When both have been silent for ``timeout_s``, the session is lost. Silence is counted in looks of our own loop: a
     program that was stopped itself does not take its host for dead.
  3. A control connection that is over, or silent for half of ``timeout_s``, is made anew and takes the session over
     with RESUME, again and again while the session lives. The silent one may still come back before that.
  4. A daemon that answers, but knows the session no more, has the last word.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from simpler.errors import ConnectError, SimplerError, StaleHandle
from simpler.remote import asking_again
from simpler.remote.control import Control
from simpler.wire.control_messages import OpenReply, Ping
from simpler.wire.link import Link

LOOKS = 8
"""In ``timeout_s``. What is lost just after a look is noticed by the last of them: LOOKS - 1 silent ones are enough."""


class Watched:
    """One connection, and for how many looks nothing has come from it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.silent_looks = 0
        self._heard_at = link.heard_at
        self._is_asked = False

    def look(self) -> None:
        """Counts."""
        heard_at = self.link.heard_at
        self.silent_looks = 0 if heard_at > self._heard_at else self.silent_looks + 1
        self._heard_at = heard_at

    def ask(self, nursery: trio.Nursery) -> None:
        """Asks for a sign of life when none has come of itself."""
        if self.silent_looks and not self._is_asked and self.link.cause is None:
            self._is_asked = True
            nursery.start_soon(self._ask)

    async def _ask(self) -> None:
        try:
            await self.link.request(Ping(), timeout_s=None)  # how long it takes is what is watched
        except SimplerError:  # the connection is over, which its cause says
            return
        finally:
            self._is_asked = False

    def described(self) -> str:
        """When it was last heard, and how it ended if it did."""
        ended = f" ({self.link.cause})" if self.link.cause is not None else ""
        return f"{self.link.name} was last heard {trio.current_time() - self.link.heard_at:.1f} s ago{ended}"


class Health:
    """Watches the session ``opened``, which is READY."""

    def __init__(self, control: Control, lanes: Sequence[Link], opened: OpenReply, timeout_s: float) -> None:
        self._control = control
        self._opened = opened
        self._timeout_s = timeout_s
        self._daemon = Watched(control.link)
        self._lanes = [Watched(lane) for lane in lanes]
        self._resuming: trio.CancelScope | None = None
        self._refusal: SimplerError | None = None
        self._verdict: str | None = None
        self._nursery: trio.Nursery

    async def run(self) -> str:
        """Until the session is to be given up, for as long as it lives; says what was seen."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._resume_once_over, self._daemon.link)
            while self._verdict is None:
                await trio.sleep(self._timeout_s / LOOKS)
                self._look()
            self._nursery.cancel_scope.cancel()
        return self._verdict

    def _look(self) -> None:
        watched = [self._daemon, *self._lanes]
        for one in watched:
            one.look()
        for one in watched if self._daemon.silent_looks > 1 else [self._daemon]:
            one.ask(self._nursery)
        if min(one.silent_looks for one in watched) >= LOOKS - 1:
            self._verdict = self._verdict or self._all_silent()
        elif self._daemon.link.cause is not None or self._daemon.silent_looks >= LOOKS // 2:
            self._begin_to_resume()
        elif self._resuming is not None:
            self._resuming.cancel()

    async def _resume_once_over(self, link: Link) -> None:
        await link.wait_closed()
        if link is self._daemon.link:
            self._begin_to_resume()

    def _begin_to_resume(self) -> None:
        if self._resuming is None:
            self._resuming = trio.CancelScope()
            self._nursery.start_soon(self._resume, self._resuming)

    async def _resume(self, scope: trio.CancelScope) -> None:
        with scope:
            for wait_s in asking_again.waits():
                if self._verdict is not None or await self._resumed():
                    break
                await trio.sleep(min(wait_s, self._timeout_s / LOOKS))
        self._resuming = None

    async def _resumed(self) -> bool:
        try:
            with trio.fail_after(self._timeout_s):
                await self._control.resume(self._opened)
        except StaleHandle as gone:
            self._verdict = f"its daemon answers, but not for it: {gone.message}"
        except trio.TooSlowError:
            self._refusal = ConnectError(f"no answer within {self._timeout_s:g} s")
        except SimplerError as refusal:
            self._refusal = refusal
        else:
            self._daemon, self._refusal = Watched(self._control.link), None
            self._nursery.start_soon(self._resume_once_over, self._daemon.link)
            return True
        return False

    def _all_silent(self) -> str:
        seen = "; ".join(one.described() for one in (self._daemon, *self._lanes))
        again = "" if self._refusal is None else f". Connecting anew failed: {self._refusal}"
        return f"nothing came from its host for {self._timeout_s:g} s: {seen}{again}"
