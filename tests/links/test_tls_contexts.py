"""Which files a TLS context is made of, when it is used again, and which files are not opened."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
import trustme

from amqpd.links import tls_contexts
from amqpd.links.tls_contexts import TLSContexts
from amqpd.links.uri import LinkURI

pytestmark = pytest.mark.anyio


class Files:
    """An authority, and a client's certificate and key."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.authority = home / "ca.pem"
        self.client = home / "client.pem"
        self.renew()

    def renew(self) -> None:
        """All of them, in place."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.authority))
        issued = authority.issue_cert("link")
        issued.private_key_and_cert_chain_pem.write_to_path(str(self.client))

    def uri(self, **fields: object) -> LinkURI:
        given: dict[str, object] = {"cacertfile": str(self.authority)} | fields
        return LinkURI(tls=True, host="broker", **given)  # type: ignore[arg-type]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What contexts were made of, each time."""
    demands: list[object] = []
    make = tls_contexts._make

    def count(demand: tls_contexts.Demand) -> ssl.SSLContext:
        demands.append(demand)
        return make(demand)

    monkeypatch.setattr(tls_contexts, "_make", count)
    return demands


async def test_hundreds_of_attempts_read_the_files_once(files: Files, made: list[object]) -> None:
    contexts, got = TLSContexts(), list[ssl.SSLContext]()
    uri = files.uri(certfile=str(files.client))

    async def want() -> None:
        got.append(await contexts.context(uri))

    for _ in range(3):
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(want)
    assert len(set(got)) == len(made) == 1


async def test_only_what_tls_is_about_makes_a_difference(files: Files) -> None:
    contexts = TLSContexts()
    first = await contexts.context(files.uri(user="one", vhost="one", port=1))
    second = await contexts.context(
        files.uri(user="two", vhost="two", port=2, server_name="name", key_password="unused")
    )
    assert first is second


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"verify": "verify_peer"}, {"verify": "verify_none"}),
        ({"server_name": "name"}, {"server_name": "disable"}),
        ({"key_password": "one"}, {"key_password": "other"}),
        ({"key_password": None}, {"key_password": "other"}),
        ({"keyfile": None}, {"keyfile": "{client}"}),
        ({}, {"certfile": None}),
        ({}, {"cacertfile": "{client}"}),
    ],
)
async def test_different_demands_have_different_contexts(
    files: Files, one: dict[str, str | None], other: dict[str, str | None]
) -> None:
    contexts = TLSContexts()

    async def context(fields: dict[str, str | None]) -> ssl.SSLContext:
        named = {
            name: value and value.format(client=files.client) for name, value in fields.items()
        }
        return await contexts.context(files.uri(**{"certfile": str(files.client), **named}))

    assert await context(one) is not await context(other)
    assert await context(one) is await context(one)


def replace(files: Files) -> None:
    """As tools do that write a new file first."""
    before = files.client.stat()
    spare = files.home / "spare.pem"
    spare.write_bytes(files.client.read_bytes())
    os.utime(spare, ns=(before.st_atime_ns, before.st_mtime_ns))
    spare.replace(files.client)


def rewrite(files: Files) -> None:
    files.renew()
    os.utime(files.client, (1, 1))


def touch(files: Files) -> None:
    os.utime(files.authority, (1, 1))


@pytest.mark.parametrize("change", [replace, rewrite, touch])
async def test_a_file_that_changes_is_read_again(
    files: Files, change: Callable[[Files], None]
) -> None:
    contexts = TLSContexts()
    before = await contexts.context(files.uri(certfile=str(files.client)))
    change(files)
    after = await contexts.context(files.uri(certfile=str(files.client)))
    assert after is not before
    assert await contexts.context(files.uri(certfile=str(files.client))) is after


async def test_the_systems_certificates_are_read_again_when_they_change(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(files.authority))
    monkeypatch.setenv("SSL_CERT_DIR", str(files.home))
    contexts = TLSContexts()
    before = await contexts.context(files.uri(cacertfile=None))
    assert await contexts.context(files.uri(cacertfile=None)) is before
    assert before.get_ca_certs()
    files.renew()
    os.utime(files.authority, (1, 1))
    after = await contexts.context(files.uri(cacertfile=None))
    assert after.get_ca_certs(binary_form=True) != before.get_ca_certs(binary_form=True)


async def test_without_verification_no_certificates_are_loaded(files: Files) -> None:
    contexts = TLSContexts()
    context = await contexts.context(files.uri(cacertfile=None, verify="verify_none"))
    assert context.cert_store_stats()["x509"] == 0
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)
    assert context.minimum_version == ssl.create_default_context().minimum_version
    named = await contexts.context(files.uri(verify="verify_none"))
    assert named.cert_store_stats()["x509"] == 1
    assert (named.verify_mode, named.check_hostname) == (ssl.CERT_NONE, False)


async def test_with_verification_the_name_is_checked_if_there_is_one(files: Files) -> None:
    contexts = TLSContexts()
    context = await contexts.context(files.uri())
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    nameless = await contexts.context(files.uri(server_name="disable"))
    assert (nameless.verify_mode, nameless.check_hostname) == (ssl.CERT_REQUIRED, False)


async def test_those_used_last_are_kept(files: Files, made: list[object]) -> None:
    contexts = TLSContexts(kept_max=2)
    uris = [files.uri(certfile=str(files.client), key_password=word) for word in "abc"]
    for number in (0, 1, 0, 2, 0):
        await contexts.context(uris[number])
    assert len(made) == 3
    await contexts.context(uris[1])
    assert len(made) == 4


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_directory(path: Path) -> None:
    path.mkdir()


def make_empty(path: Path) -> None:
    path.touch()


def make_large(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize("field", ["cacertfile", "certfile", "keyfile"])
@pytest.mark.parametrize("verify", ["verify_peer", "verify_none"])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_pipe, "is not a regular file"),
        (make_directory, "is not a regular file"),
        (make_empty, "is empty"),
        (make_large, "has more than 16777216 bytes"),
    ],
)
async def test_what_cannot_be_read_to_its_end_is_not_opened(
    files: Files, field: str, verify: str, make: Callable[[Path], None], reason: str
) -> None:
    path = files.home / "other"
    make(path)
    fields = {"certfile": str(files.client), "verify": verify, field: str(path)}
    with pytest.raises(OSError, match=f"^'{path}' {reason}$"):
        await TLSContexts().context(files.uri(**fields))


async def test_a_link_to_a_pipe_is_a_pipe(files: Files) -> None:
    os.mkfifo(files.home / "pipe")
    (files.home / "link").symlink_to("pipe")
    with pytest.raises(OSError, match="is not a regular file"):
        await TLSContexts().context(files.uri(cacertfile=str(files.home / "link")))
