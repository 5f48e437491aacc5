"""All methods of the admin interface in one table, how a call is carried out, and `rpc.discover` made from the table.

A call that changes anything is published as an `admin.call` event, with who made it, before it is carried out, and what
came of it as `admin.done`. So a call that the daemon did not survive is seen too.
"""

import difflib
from typing import Any

import msgspec

import simpler
from simpler.errors import SimplerError
from simplerd.admin import (
    config_methods,
    daemon_methods,
    device_methods,
    drain_methods,
    event_methods,
    inside_methods,
    metrics_methods,
    session_methods,
)
from simplerd.admin.event_methods import EventNotice
from simplerd.admin.jsonrpc import Code, Params, RpcError
from simplerd.admin.method import Caller, Method, Nothing, ParamsT, Role

WHAT_MAY_BE_MISSING = frozenset({"session", "device", "subscription"})
"""Parameters by these names name something, of which the caller may be told that there is none."""
AUDITED_GROUPS = 32
LIKELY_NAME_CHARACTERS = 64
"""Nobody meant a method by what is longer, and to compare it takes long."""


async def discover(caller: Caller, params: Nothing) -> dict[str, object]:
    return DISCOVERY


TABLE: tuple[Method[Any], ...] = (
    Method("rpc.discover", Role.READ, discover, Nothing, dict[str, Any], "Describe this interface in OpenRPC."),
    *daemon_methods.METHODS,
    *drain_methods.METHODS,
    *config_methods.METHODS,
    *session_methods.METHODS,
    *inside_methods.METHODS,
    *device_methods.METHODS,
    *event_methods.METHODS,
    *metrics_methods.METHODS,
)
METHODS = {method.name: method for method in TABLE}


async def call(caller: Caller, name: str, params: Params) -> object:
    """Carry out method `name`. Raises RpcError, or the SimplerError that the method met."""
    method = METHODS.get(name)
    if method is None:
        close = difflib.get_close_matches(name, METHODS, n=1) if len(name) <= LIKELY_NAME_CHARACTERS else []
        hint = f"did you mean {close[0]}?" if close else "rpc.discover lists them"
        raise RpcError(Code.METHOD_NOT_FOUND, f"there is no method {name!r}; {hint}", method=name)
    caller.daemon.admin_calls.add(name)
    if method.role is Role.READ:
        return await method.handler(caller, _typed(method, params))
    if caller.role is not Role.OPERATE:
        why = f"{name} changes something, and you may only read: it is for root, the daemon's user and its operators"
        raise RpcError(Code.NOT_PERMITTED, why, method=name, role=caller.role.value)
    return await _audited(caller, method, _typed(method, params))


async def _audited(caller: Caller, method: Method[ParamsT], params: ParamsT) -> object:
    events, peer = caller.daemon.events, caller.peer
    made = events.publish(
        "admin.call",
        method=method.name,
        params=msgspec.json.encode(params).decode(),
        uid=peer.uid,
        pid=peer.pid,
        groups=sorted(caller.groups)[:AUDITED_GROUPS],
    )
    outcome = "LEFT"  # the connection ended before the call did
    try:
        result = await method.handler(caller, params)
        outcome = "DONE"
        return result
    except RpcError as error:
        outcome = str(error.data["code"])
        raise
    except SimplerError as error:
        outcome = error.code
        raise
    except Exception:
        outcome = Code.INTERNAL_ERROR.name
        raise
    finally:
        events.publish("admin.done", method=method.name, call=made.seq, uid=peer.uid, pid=peer.pid, outcome=outcome)


def _typed(method: Method[ParamsT], params: Params) -> ParamsT:
    fields = method.params.__struct_fields__
    takes = f"{method.name} takes {', '.join(fields) or 'no parameters'}"
    if isinstance(params, list):
        if len(params) > len(fields):
            raise RpcError(Code.INVALID_PARAMS, f"{len(params)} parameters; {takes}", method=method.name)
        params = dict(zip(fields, params, strict=False))
    try:
        return msgspec.convert(params, method.params)
    except msgspec.ValidationError as error:
        raise RpcError(Code.INVALID_PARAMS, f"{error}; {takes}", method=method.name) from error


def _openrpc() -> dict[str, object]:
    """https://spec.open-rpc.org; what it has no place for has "x-" before its name."""
    types = [EventNotice, *(type for method in TABLE for type in (method.params, method.result))]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    return {
        "openrpc": "1.3.2",
        "info": {"title": "simplerd admin interface", "version": simpler.__version__},
        "methods": [
            _described(method, components[method.params.__name__], result)
            for method, result in zip(TABLE, schemas[2::2], strict=True)
        ],
        "x-notifications": [{"name": "event", "params": schemas[0]}],
        "components": {"schemas": components, "errors": {code.name: _error(code) for code in Code}},
    }


def _described(method: Method[Any], params: dict[str, Any], result: dict[str, Any]) -> dict[str, object]:
    codes = {Code.INVALID_PARAMS, Code.INTERNAL_ERROR, Code.FAILED}
    if method.role is Role.OPERATE:
        codes.add(Code.NOT_PERMITTED)
    if WHAT_MAY_BE_MISSING.intersection(params["properties"]):
        codes.add(Code.NOT_FOUND)
    return {
        "name": method.name,
        "summary": method.summary,
        "paramStructure": "either",
        "params": [
            {"name": name, "required": name in params.get("required", ()), "schema": schema}
            for name, schema in params["properties"].items()
        ],
        "result": {"name": "result", "schema": result},
        "errors": [{"$ref": f"#/components/errors/{code.name}"} for code in Code if code in codes],
        "x-role": method.role.value,
    }


def _error(code: Code) -> dict[str, object]:
    return {"code": code.value, "message": code.name, "data": {"code": "a stable symbol, often a more exact one"}}


DISCOVERY = _openrpc()
