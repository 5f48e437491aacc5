"""What must not leave the host is taken out of what does: keys, tokens, passwords, values of variables; on wish, names.

Rules
  1. It is looked for by shape and by the name before it, since nobody knows all secrets. What is doubtful goes: a
     report that lacks a word is still a report.
  2. A digest ("sha256:…") names code or a certificate, and a path names a file: these stay, they are no secrets.
  3. Structured values are redacted member by member before they become text, so that escapes hide nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

HIDDEN = "[redacted]"
SHORTEST_SECRET = 6
"""A variable's value that is shorter would take half of the words with it."""

# Each begins where a word does and repeats a bounded number of times, so that no text takes long.
_SECRET_NAME = (
    r"(?<![\w.-])[\w.-]{0,128}(?:passw(?:or)?d|passphrase|passcode|secret|token|credential|authorization|cookie|"
    r"(?:api|access|account)[_-]?key|[a-z0-9]{1,32}[_-]key|\bkey|(?<![a-z])(?:pass|pwd|auth|sig)(?![a-z]))[\w.-]{0,128}"
)
_IS_SECRET_NAME = re.compile(_SECRET_NAME, re.IGNORECASE)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,64}PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]{0,64}PRIVATE KEY-----|\Z)", re.DOTALL
)
_END_OF_KEY = re.compile(
    r"(?:^[\w+/=]{1,128}\n){0,64}^-----END [A-Z0-9 ]{0,64}PRIVATE KEY-----", re.MULTILINE | re.ASCII
)
"""Of one whose beginning was cut off."""
_NAMED = re.compile(
    rf"""(?P<name>{_SECRET_NAME}["']?\s{{0,8}}[:=]\s{{0,8}})"""
    r"""(?P<value>(?:bearer|basic)\s+\S+|\"{3}(?s:.{0,4096}?)\"{3}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[^\s"',;}\]]+)""",
    re.IGNORECASE,
)
_HEADER = re.compile(r"(\b(?:authorization|cookie)\s{0,8}:\s{0,8})[^\n\"']+", re.IGNORECASE)
_OPTION = re.compile(rf"((?=--?\w){_SECRET_NAME}\s{{1,8}})(?![\s/-])[^\s\"']+", re.IGNORECASE)
_USER = re.compile(r"((?<![\w-])(?:-u|--user)[\s=]{1,8}[^\s:]{1,256}:)\S+")
_CREDENTIAL = re.compile(r"^(\s*SetCredential(?:Encrypted)?=)(?:.*\\\n)*.*$", re.MULTILINE)
_VARIABLES = re.compile(r"^(?P<name>\s*Environment=)(?P<value>(?:.*\\\n)*.*)$", re.MULTILINE)
_VARIABLE = re.compile(r"""("\w+=)[^"]*(?=")|('\w+=)[^']*(?=')|(\w+=)(?:[^\s"']|(?<==)(?:"[^"]*"|'[^']*'))*""")
_IN_URL = re.compile(r"(?<![\w+.-])([\w+.-]{1,32}://)[^\s/@]{1,512}@")
_BEARER = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE)
_WELL_KNOWN = re.compile(
    r"\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_\w{20,}|xox[a-z]-[\w-]{10,}|sk[-_][\w-]{16,}|glpat-[\w-]{10,}|AIza[\w-]{30,}|eyJ[\w-]{4,}\.[\w-]{4,}\.[\w-]*)"
)
_RANDOM = re.compile(r"(?<!sha256:)(?<![\w+/=-])[\w+/=-]{32,}", re.ASCII)
_HEX = re.compile(r"[0-9a-fA-F]+")


class Redaction:
    """Takes secrets out of text and counts them.

    `secrets` are hidden wherever they stand; `names` are words that are replaced by others.
    """

    def __init__(self, secrets: Iterable[str] = (), names: Mapping[str, str] | None = None) -> None:
        self.hidden = 0
        known = sorted({each for each in secrets if len(each) >= SHORTEST_SECRET}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None
        self._names = names or {}
        words = sorted(map(re.escape, self._names), key=len, reverse=True)
        self._words = re.compile(rf"(?<![\w.-])(?:{'|'.join(words)})(?![\w-])") if words else None

    def text(self, text: str) -> str:
        """The text without what must not leave the host."""
        if self._known is not None:
            text = self._hide(self._known, lambda _: HIDDEN, text)
        text = self._hide(_PRIVATE_KEY, lambda _: "[redacted: private key]", text)
        if "PRIVATE KEY-----" in text:
            text = self._hide(_END_OF_KEY, lambda _: "[redacted: private key]", text)
        for begins in (_CREDENTIAL, _HEADER, _OPTION, _USER):
            text = self._hide(begins, lambda each: each[1] + HIDDEN, text)
        text = self._hide(
            _VARIABLES, lambda each: each["name"] + _VARIABLE.sub(rf"\1\2\3{HIDDEN}", each["value"]), text
        )
        text = self._hide(_IN_URL, lambda each: f"{each[1]}{HIDDEN}@", text)
        text = self._hide(_NAMED, _hidden_value, text)
        text = self._hide(_BEARER, lambda each: f"{each[1]} {HIDDEN}", text)
        text = self._hide(_WELL_KNOWN, lambda _: HIDDEN, text)
        text = self._hide(_RANDOM, _hidden_if_random, text)
        return text if self._words is None else self._words.sub(lambda each: self._names[each[0]], text)

    def value(self, value: object) -> object:
        """The same for what is about to become JSON: members whose name tells that they are secret, and all texts."""
        if isinstance(value, dict):
            return {self.text(str(name)): self._member(str(name), member) for name, member in value.items()}
        if isinstance(value, list | tuple):
            if value and all(isinstance(each, str) for each in value):  # lines, over which a key may stretch
                return self.text("\n".join(value)).split("\n")
            return [self.value(each) for each in value]
        return self.text(value) if isinstance(value, str) else value

    def _member(self, name: str, member: object) -> object:
        if isinstance(member, str) and member and not member.startswith("/") and _IS_SECRET_NAME.fullmatch(name):
            self.hidden += 1
            return HIDDEN
        return self.value(member)

    def _hide(self, pattern: re.Pattern[str], by: Callable[[re.Match[str]], str], text: str) -> str:
        def hide(found: re.Match[str]) -> str:
            instead = by(found)
            self.hidden += instead != found[0]
            return instead

        return pattern.sub(hide, text)


def is_secret_name(name: str) -> bool:
    """Whether a variable of that name holds what must not be told."""
    return _IS_SECRET_NAME.fullmatch(name) is not None


def _hidden_value(named: re.Match[str]) -> str:
    value = named["value"]
    is_path = value.lstrip("\"'").startswith("/")
    return named[0] if is_path or HIDDEN in value else named["name"] + HIDDEN


def _hidden_if_random(found: re.Match[str]) -> str:
    """Words are long, too; what is random has digits among its letters, and large ones among the small."""
    text = found[0]
    kinds = [any(map(kind, text)) for kind in (str.isdigit, str.isupper, str.islower)]
    is_random = all(kinds) or (kinds[0] and _HEX.fullmatch(text) is not None and not text.isdigit())
    return HIDDEN if is_random else text
