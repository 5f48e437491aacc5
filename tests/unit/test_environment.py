"""Which variables of a program reach its workers."""

import pytest

from simpler.environment import PROGRAM, SESSION, looks_secret

SECRETS = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_CLIENT_SECRET", "DATABASE_URL"),
    *("GITHUB_TOKEN", "GH_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS", "HF_TOKEN", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"),
    *("PGPASSWORD", "SSH_AUTH_SOCK", "SLACK_WEBHOOK_URL", "http_proxy", "NPM_TOKEN", "WANDB_API_KEY"),
)


@pytest.mark.parametrize("name", SECRETS)
def test_what_is_not_on_the_list_stays_behind(name: str) -> None:  # X3
    assert not PROGRAM.keeps(name)
    assert not SESSION.keeps(name)


@pytest.mark.parametrize(
    "name",
    ["PYTHON_API_TOKEN", "PYTHONSECRET", "SIMPLER_TLS_KEY", "CONDA_TOKEN", "CUDA_X_PASSWORD", "PYTHON_TOKEN2"],
)
def test_a_prefix_lets_no_secret_pass(name: str) -> None:  # X3
    assert looks_secret(name)
    assert not PROGRAM.keeps(name)


def test_a_prefix_lets_no_password_in_a_url_pass() -> None:  # X3
    channels = {"CONDA_CHANNEL_ALIAS": "https://me:secret@host/", "CONDA_CHANNELS": "https://host:8080/a@b"}
    assert PROGRAM.of(channels) == {"CONDA_CHANNELS": "https://host:8080/a@b"}


@pytest.mark.parametrize(
    "name",
    ["PATH", "HOME", "LC_ALL", "PYTHONPATH", "PYTHONHASHSEED", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "MPLBACKEND"],
)
def test_what_programs_need_is_kept(name: str) -> None:  # X3
    assert PROGRAM.keeps(name)


def test_a_name_that_the_user_adds_is_kept_whatever_it_looks_like() -> None:  # X3
    found = {"GITHUB_TOKEN": "t", "OPENAI_API_KEY": "k", "PATH": "/bin"}
    assert PROGRAM.of(found, also={"GITHUB_TOKEN"}) == {"GITHUB_TOKEN": "t", "PATH": "/bin"}
