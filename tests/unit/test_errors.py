"""The error tree and its form on the wire: nothing lost, nothing cut, nothing that cannot be read."""

from __future__ import annotations

import pickle
import subprocess
import sys

import msgpack
import pytest

from simpler import errors
from simpler.error_record import decode_error, encode_error
from simpler.errors import SimplerError, TaskError, UpstreamFailed, WorkerDied, error_classes
from simpler.region_records import WriteConflict


class Unpicklable(Exception):
    def __reduce__(self) -> str:
        raise TypeError("no")


class Leaving(Exception):
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return sys.exit, ("a class that ends the process which rebuilds it",)


class Stubborn(Exception):
    def __str__(self) -> str:
        raise RuntimeError("cannot say")


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_codes_are_stable_and_no_two_classes_declare_the_same() -> None:
    declared = [cls.default_code for cls in error_classes().values() if "default_code" in vars(cls)]
    assert len(set(declared)) == len(declared)
    assert all(code == code.upper() and code.isidentifier() for code in declared)


def test_a_users_exception_comes_back_as_the_cause_with_its_traceback() -> None:  # R6
    error = decode_error(encode_error(raised(ValueError("boom")), worker="sub0"))
    assert isinstance(error, TaskError)
    assert isinstance(error.__cause__, ValueError)
    assert "ValueError: boom" in str(error)
    assert "in raised" in error.remote_traceback
    assert error.context == {"worker": "sub0"}


@pytest.mark.parametrize("error", [Unpicklable("lost"), Stubborn(), Leaving()])
def test_a_class_that_cannot_be_rebuilt_degrades_to_its_text(error: Exception) -> None:  # R6
    decoded = decode_error(encode_error(raised(error)))
    assert type(decoded) is TaskError
    assert type(error).__name__ in str(decoded)
    assert decoded.remote_traceback


@pytest.mark.parametrize("cls", [WorkerDied, UpstreamFailed, errors.CapacityError])
def test_our_own_errors_keep_class_code_and_context(cls: type[SimplerError]) -> None:
    decoded = decode_error(encode_error(cls("what happened", code="SPECIAL", pid=7), host="here"))
    assert (type(decoded), decoded.code, str(decoded)) == (cls, "SPECIAL", "what happened")
    assert decoded.context == {"pid": 7, "host": "here"}


def test_an_error_made_of_something_else_degrades_to_the_class_above() -> None:  # R6
    decoded = decode_error(encode_error(WriteConflict(0, 2)))
    assert type(decoded) is errors.ArgumentError
    assert "tensor arguments 0 and 2" in str(decoded)
    fields: dict[str, object] = {
        "class": "WriteConflict",
        "code": "X",
        "message": "m",
        "context": {},
        "traceback": "",
        "pickle": None,
    }
    assert type(decode_error(msgpack.packb(fields))) is SimplerError


def test_what_is_put_before_a_message_is_in_all_that_shows_it() -> None:
    error = TaskError("boom")
    error.message = f"L5/w0: {error.message}"
    copied = pickle.loads(pickle.dumps(error))
    assert str(error) == str(copied) == error.args[0] == "L5/w0: boom"
    assert repr(error) == repr(copied) == "TaskError('L5/w0: boom')"


def test_a_long_message_is_not_cut() -> None:
    text = "x" * (3 << 20)
    assert text in str(decode_error(encode_error(ValueError(text))))


@pytest.mark.parametrize("record", [b"", b"\xff", b"\x80", b"\x93\x01\x02\x03", b"not a record"])
def test_bytes_that_are_no_record_become_an_error_that_says_so(record: bytes) -> None:
    assert "cannot be read" in str(decode_error(record))


def test_facts_may_have_any_name() -> None:  # R2
    fields = {"class": "SessionLost", "code": "X", "message": "m", "traceback": "", "pickle": None}
    context = {"code": "a", "message": "b", "self": "c"}
    error = decode_error(msgpack.packb(fields | {"context": context}))
    assert (error.code, error.message, error.context) == ("X", "m", context)


def test_a_reader_that_does_not_trust_pickle_never_loads_it() -> None:
    record = encode_error(raised(ValueError("boom")))
    assert decode_error(record, trust_pickle=False).__cause__ is None


def test_the_daemons_side_loads_no_pickle() -> None:
    program = (
        "import sys; from simpler.error_record import encode_error, decode_error\n"
        "from simpler.errors import SimplerError\n"
        "error = SimplerError('x'); error.__cause__ = ValueError('y')\n"
        "decode_error(encode_error(error, may_pickle=False), trust_pickle=False)\n"
        "sys.exit(any(name in sys.modules for name in ('pickle', 'cloudpickle', 'numpy')))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
