"""How one call is run, apart from what it computes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallOptions:
    """Settings of one call.

    ``timeout_s``: seconds that it may run, None for as long as it takes. When they are over its worker is killed and
    replaced, and the call fails with TaskTimeout; it is not run again.
    """

    timeout_s: float | None = None
