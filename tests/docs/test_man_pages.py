"""The manual pages: each verb has one that says what its --help says, and groff has nothing to say against any."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import verb_schemas
from cffi_build.man_pages import pages

PAGES = pages()


def test_every_command_has_a_page() -> None:
    verbs = {f"simplerctl-{'-'.join(words)}.1" for words, _ in verb_schemas.verbs()}
    assert verbs | {"simplerctl.1", "simplerd.8", "simplerd.toml.5"} <= set(PAGES)


def test_a_page_has_the_help_the_options_and_the_example() -> None:
    page = PAGES["simplerctl-session-close.1"].replace("\\-", "-").replace("\\&", "")
    assert "simplerctl-session-close - End a session, and wait until nothing of it is left\n" in page
    assert re.search(r"\.B --reason TEXT\nFor its client and the log\.", page)
    assert 'simplerctl session close s-0a1b2c3d --reason "host is needed"' in page
    assert "\n.B 4\nThere is no daemon.\n" in page


def test_the_page_of_the_configuration_has_every_section() -> None:
    assert {"[daemon]", "[listen]", "[limits]"} <= set(PAGES["simplerd.toml.5"].splitlines())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_groff_takes_every_page() -> None:
    text = "".join(PAGES.values())
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
