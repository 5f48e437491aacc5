"""What a bug report must not have in it, and what it needs."""

from __future__ import annotations

import json
import time

import pytest

from simplerctl.redaction import HIDDEN, Redaction

SECRET = "hunter2-x9"
PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIB\nabc\n-----END EC PRIVATE KEY-----"


@pytest.mark.parametrize(
    "text",
    [
        f"password={SECRET}",
        f"DB_PASSWORD: {SECRET}",
        f'"api_key": "{SECRET} {SECRET}"',
        f"api-key='{SECRET}'",
        f"AWS_SECRET_ACCESS_KEY={SECRET}",
        f"SECRET_KEY = {SECRET}",
        f"key = {SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"curl -H 'authorization: basic {SECRET}'",
        f"sent bearer {SECRET}",
        f"postgres://alice:{SECRET}@db/x",
        f"Environment=ONE={SECRET} TWO={SECRET}",
        f'Environment="ONE={SECRET}" "TWO={SECRET}"',
        f"my_token={SECRET}, and more",
        f"session-cookie={SECRET};",
        f"DB_PASS={SECRET}",
        f"pwd={SECRET}",
        f"AccountKey={SECRET};EndpointSuffix=x",
        f"GET /blob?sv=1&sig={SECRET}&x=1",
        f"tool --password {SECRET} --fast",
        f"curl -u alice:{SECRET} https://db/",
        f"Authorization: Token {SECRET}",
        f"Cookie: theme=dark; sid={SECRET}",
        f"https://{SECRET}@host/repository",
        f"redis://:{SECRET}@host",
        f'token = """\n{SECRET}\n"""',
        f'Environment="ONE=two words {SECRET}" TWO="a {SECRET}"',
        f"Environment=ONE=a \\\n  TWO={SECRET}",
    ],
)
def test_a_secret_is_known_by_what_stands_before_it(text: str) -> None:
    redaction = Redaction()
    redacted = redaction.text(f"before {text if not text.startswith('Env') else chr(10) + text}\nafter")
    assert SECRET not in redacted
    assert redacted.startswith("before ")
    assert redacted.endswith("after")
    assert redaction.hidden >= 1


@pytest.mark.parametrize(
    "secret",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "0123456789abcdef0123456789abcdef",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY1",
    ],
)
def test_a_secret_is_known_by_its_shape(secret: str) -> None:
    assert Redaction().text(f"it said {secret} and died") == f"it said {HIDDEN} and died"


def test_a_private_key_goes_as_a_whole_even_when_its_end_is_missing() -> None:
    assert Redaction().text(f"a\n{PEM}\nb") == "a\n[redacted: private key]\nb"
    assert "MHcC" not in Redaction().text(f"a\n{PEM[:45]}")
    assert Redaction().text(f"a b\n{PEM.partition(chr(10))[2]}\nb") == "a b\n[redacted: private key]\nb"
    assert Redaction().value(["a", *PEM.split("\n"), "b"]) == ["a", "[redacted: private key]", "b"]


@pytest.mark.parametrize(
    "text",
    [
        "sha256:" + "0123456789abcdef" * 4,
        'key = "/etc/simplerd/tls/key.pem"',
        "/usr/local/lib/simpler/0.1.0/lib/python3.11/site-packages",
        "session s-0a1b2c3d of uid 1000 was killed by SIGKILL",
        "the keyboard monkey's turkey",
        "CALLABLE_HANDLE_MUTATED_AND_A_VERY_LONG_NAME_OF_A_CODE",
        "boot 0b6e7b1a-4c1d-4e47-9d3b-5b6f8f2f0c11",
        "limits.sessions_per_client = 128",
        "3 tests passed: authorised, bypass: none, signal: 9, significant = 1",
        "https://host:8080/path?x=1",
        "--key /etc/simplerd/tls/key.pem --token --fast",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    redaction = Redaction()
    assert (redaction.text(text), redaction.hidden) == (text, 0)


def test_members_are_redacted_before_they_are_text() -> None:
    value = {"token": SECRET, "tls.key": "/etc/key", "cause": f'said {{"password": "{SECRET}"}}\n{PEM}', "n": [1, PEM]}
    text = json.dumps(Redaction().value(value))
    assert SECRET not in text
    assert "MHcC" not in text
    assert json.loads(text)["tls.key"] == "/etc/key"
    assert json.loads(text)["n"][0] == 1


def test_what_is_known_goes_wherever_it_stands() -> None:
    assert Redaction([SECRET, "abc"]).text(f"x{SECRET}y abc") == f"x{HIDDEN}y abc"


def test_names_are_replaced_as_words() -> None:
    redaction = Redaction(names={"alice": "user-1", "node1": "host"})
    told = "alice@node1: /home/alice/x of malice, node10"
    assert redaction.text(told) == "user-1@host: /home/user-1/x of malice, node10"


@pytest.mark.parametrize(
    "piece", ["a", "a_", "key", "a.", "://", "x:", "token=", "-----BEGIN PRIVATE KEY-----", "eyJa.", "a\n"]
)
def test_no_text_takes_long(piece: str) -> None:
    text = piece * ((1 << 18) // len(piece))
    begun = time.process_time()
    Redaction().text(text)
    assert time.process_time() - begun < 10  # what grows with the square takes hours
