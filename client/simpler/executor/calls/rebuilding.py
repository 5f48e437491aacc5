"""Loading pickles in the program: what their classes raise is told from what a signal handler raises meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from traceback import format_exception_only
from typing import Any


class NotRebuilt(Exception):
    """A class refused to be loaded, or its module to be imported: the cause. The message says what was raised."""


def rebuilt(load: Callable[[], Any]) -> Any:
    """What ``load`` gives. Raises NotRebuilt for whatever that raises.

    What a signal handler raised in its middle is raised as it is: it does not come again when ``load`` is tried a
    second time. Handlers run in the main thread alone.
    """
    try:
        return load()
    except BaseException as raised:
        reason = raised
    if threading.current_thread() is threading.main_thread():
        interruption = reason
        try:
            load()
        except BaseException as again:
            reason = again
        else:
            raise interruption
    raise NotRebuilt("".join(format_exception_only(reason)).strip()) from reason
