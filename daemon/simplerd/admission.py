"""Who may come in at the session port, and how many: connections that are silent, and those that said who they are.

Rules
  1. A fresh connection is *silent* until it has said a good first frame. Silent connections are bounded in number and
     time. When there is no room for one more, the oldest of the identity that has most of them gives way: so whoever
     comes gets in, and nobody is pushed out by another's flood.
  2. An *identity* is what limits are counted for: a user of this host (uid), the certificate of a TLS client, the
     address of a plain TCP client. One identity alone fills neither the connections nor the sessions of the daemon.
  3. A connection that gives way is hung up on: nothing is written to who has said nothing.
"""

from __future__ import annotations

import trio

from simpler import limits
from simpler.errors import CapacityError
from simplerd.config import Config
from simplerd.refusals import Refusals
from simplerd.sessions import Peer


class Visit:
    """One connection, from its acceptance to its end. All that is done for it is done within `scope`."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.scope = trio.CancelScope()


class Admission:
    """The connections of the session port. Belongs to the trio thread."""

    def __init__(
        self,
        refusals: Refusals,
        config: Config,
        *,
        max_connections: int = limits.MAX_CONNECTIONS,
        max_silent: int = limits.SILENT_CONNECTIONS,
    ) -> None:
        self._refusals = refusals
        self._config = config
        self._max_connections = max_connections
        self._max_silent = max_silent
        self._silent: dict[str, dict[Visit, None]] = {}
        """By identity, oldest first."""
        self._silent_count = 0
        self._admitted: dict[str, set[Visit]] = {}

    def enter(self, peer: Peer) -> Visit:
        """A connection of `peer`, silent until it is admitted or settled; its scope is cancelled when it gives way."""
        if self._silent_count >= self._max_silent:
            self._make_room()
        visit = Visit(peer)
        self._silent.setdefault(peer.identity, {})[visit] = None
        self._silent_count += 1
        return visit

    def leave(self, visit: Visit) -> None:
        """The connection is over."""
        self.settle(visit)
        identity = visit.peer.identity
        mine = self._admitted.get(identity, set())
        mine.discard(visit)
        if not mine:
            self._admitted.pop(identity, None)

    def admit(self, visit: Visit, peer: Peer) -> None:
        """It is a control connection, of `peer` as far as that is known by now.

        Raises CapacityError when there are as many as there may be, of this client or of all; it is still silent then.
        """
        mine = self._admitted.get(peer.identity, set())
        if len(mine) >= self._config.connections_per_client:
            raise CapacityError(
                f"{peer.identity} has {len(mine)} connections, which is the limit for one client; "
                "close some, or raise limits.connections_per_client in the daemon's configuration",
                setting="limits.connections_per_client",
            )
        if sum(map(len, self._admitted.values())) >= self._max_connections:
            raise CapacityError(f"{self._max_connections} clients are connected, which is the limit of this daemon")
        self.settle(visit)
        visit.peer = peer
        self._admitted.setdefault(peer.identity, set()).add(visit)

    def settle(self, visit: Visit) -> None:
        """It has said a good first frame: it is silent no more. One that was settled before stays so."""
        identity = visit.peer.identity
        silent = self._silent.get(identity, {})
        if visit not in silent:
            return
        del silent[visit]
        if not silent:
            del self._silent[identity]
        self._silent_count -= 1

    def _make_room(self) -> None:
        crowd = max(self._silent.values(), key=len)
        oldest = next(iter(crowd))
        why = f"it said nothing, and gave way: {self._silent_count} connections were silent"
        self._refusals.note(oldest.peer, "CAPACITY", why)
        self.settle(oldest)
        oldest.scope.cancel()
