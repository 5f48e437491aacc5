"""Which environment variables of a program reach processes that run user code: allow-lists of names and of prefixes.

What is not on a list stays behind, since nobody can list what is secret: AWS_SECRET_ACCESS_KEY and GITHUB_TOKEN are
only the best known. A prefix lets names pass that nobody here has read, so none does that looks like a secret's, nor a
URL with a password in it.
"""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Mapping
from typing import NamedTuple

_SECRET_ENDINGS = (
    "AUTH",
    "COOKIE",
    "CREDENTIAL",
    "CREDENTIALS",
    "DSN",
    "KEY",
    "KEYS",
    "PASS",
    "PASSPHRASE",
    "PASSWD",
    "PASSWORD",
    "PWD",
    "SECRET",
    "SECRETS",
    "TOKEN",
    "TOKENS",
)
"""A name is a secret's when one of its words, which "_" parts, ends so; "MYAPIKEY" is one, "TOKENIZERS" is not. Digits
after it do not count.
"""
_PASSWORD = re.compile(r"://[^/?#\s]*:[^/?#\s]*@")


class AllowList(NamedTuple):
    """Which variables are kept: those of these names, and those whose names begin so and which look like no secret."""

    names: frozenset[str]
    prefixes: tuple[str, ...]

    def keeps(self, name: str, value: str = "") -> bool:
        """Whether a variable of that name is kept, with that value."""
        is_fit = name.startswith(self.prefixes) and not looks_secret(name) and not holds_password(value)
        return name in self.names or is_fit

    def of(self, inherited: Mapping[str, str], also: Collection[str] = ()) -> dict[str, str]:
        """What of ``inherited`` is kept. ``also``: names that are, whatever they look like."""
        return {name: value for name, value in inherited.items() if name in also or self.keeps(name, value)}


def looks_secret(name: str) -> bool:
    """Whether the variable's name says that it holds a secret."""
    return any(word.rstrip(string.digits).endswith(_SECRET_ENDINGS) for word in name.upper().split("_"))


def holds_password(value: str) -> bool:
    """Whether it has a URL with a password (RFC 3986, userinfo)."""
    return _PASSWORD.search(value) is not None


SESSION = AllowList(
    frozenset(
        {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH"}
        | {"PYTHONPATH"}
    ),
    ("LC_",),
)
"""Of a daemon's environment, for the sessions of its clients: what any process needs to find its way on that host."""

PROGRAM = AllowList(
    SESSION.names
    | {"COLUMNS", "LINES", "TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "DISPLAY", "WAYLAND_DISPLAY"}
    | {"TEMP", "TMP", "PWD", "HOSTNAME", "VIRTUAL_ENV", "LD_PRELOAD", "CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS"}
    | {"XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"}
    | {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "TZDIR", "MALLOC_ARENA_MAX"}
    | {"NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES"}
    | {"HF_HOME", "TORCH_HOME", "TOKENIZERS_PARALLELISM", "COVERAGE_PROCESS_START"},
    (
        *SESSION.prefixes,
        *("PYTHON", "SIMPLER_", "PYTEST_XDIST_", "CONDA_"),
        *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "BLIS_", "NUMEXPR_", "NUMBA_", "VECLIB_"),
        *("CUDA_", "XLA_", "TF_CPP_", "PYTORCH_", "MPL"),
    ),
)
"""Of a program's environment, for its own workers: also what sets up Python, numeric libraries and accelerators."""
