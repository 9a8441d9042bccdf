"""Users and permissions: RabbitMQ's answers, and its words when the answer is no."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpd.broker.access import Access, DefinitionEntries, Kind
from amqpd.broker.definitions import (
    PermissionRecord,
    TopicPermissionRecord,
    UserRecord,
    decode,
    drop,
    encode,
)
from amqpd.broker.passwords import SHA256, hash_password
from amqpd.broker.patterns import compile_name_pattern, compile_pattern
from amqpd.errors import AMQPException, ChannelException, ConnectionException

HASH = hash_password("secret", b"salt")
DECLARE = (50, 10)


@pytest.fixture
def access() -> Access:
    """User `u` with a permission in `/` that a test may replace."""
    access = Access(loopback_users=["guest"])
    access.put_user("u", HASH, SHA256, ["management"])
    access.put_permission("u", "/", "^conf", "write", "read$")
    return access


# Users


def test_authenticate(access: Access) -> None:
    user = access.authenticate("u", b"secret")
    assert user is not None
    assert user.tags == ("management",)
    assert access.authenticate("u", b"wrong") is None
    assert access.authenticate("nobody", b"secret") is None


def test_without_a_hash_no_password_logs_in(access: Access) -> None:
    access.put_user("u", "", SHA256)
    assert access.authenticate("u", b"") is None
    assert access.authenticate("u", b"secret") is None


def test_a_changed_user_keeps_permissions(access: Access) -> None:
    access.put_user("u", hash_password("new", b"salt"), SHA256)
    assert access.authenticate("u", b"secret") is None
    assert access.authenticate("u", b"new") is not None
    assert access.may_enter("u", "/")


def test_delete_user_takes_all_permissions_along(access: Access) -> None:
    access.put_topic_permission("u", "/", "x", ".*", ".*")
    assert access.delete_user("u") == [
        drop(PermissionRecord("u", "/", "", "", "")),
        drop(TopicPermissionRecord("u", "/", "x", "", "")),
        drop(UserRecord("u", "", "")),
    ]
    assert access.user("u") is None
    assert not access.may_enter("u", "/")
    assert access.delete_user("u") == []


def test_a_user_of_the_same_name_starts_without_permissions(access: Access) -> None:
    assert access.may("u", "/", "configure", "conf")
    access.delete_user("u")
    access.put_user("u", HASH, SHA256)
    assert not access.may("u", "/", "configure", "conf")


def test_a_hash_that_could_never_match_is_refused(access: Access) -> None:
    with pytest.raises(ValueError, match="base64"):
        access.put_user("v", "not base64!", SHA256)
    with pytest.raises(ValueError, match="rot13"):
        access.put_user("v", HASH, "rot13")
    assert access.user("v") is None


def test_guest_logs_in_from_this_machine_only(access: Access) -> None:
    assert access.login_allowed("guest", peer_is_loopback=True)
    assert not access.login_allowed("guest", peer_is_loopback=False)
    assert access.login_allowed("u", peer_is_loopback=False)


# Permissions


@pytest.mark.parametrize(
    ("kind", "name", "allowed"),
    [
        ("configure", "conf.1", True),
        ("configure", "my-conf", False),
        ("write", "may write here", True),  # unanchored
        ("write", "other", False),
        ("read", "to read", True),
        ("read", "reading", False),
    ],
)
def test_may_searches_the_name(access: Access, kind: Kind, name: str, allowed: bool) -> None:
    assert access.may("u", "/", kind, name) is allowed
    assert access.may("u", "/", kind, name) is allowed  # and the same from the cache


def test_an_empty_pattern_matches_nothing(access: Access) -> None:
    access.put_permission("u", "/", "", "", "")
    assert not access.may("u", "/", "read", "q")
    assert access.may_enter("u", "/")


def test_the_default_exchange_is_amq_default(access: Access) -> None:
    access.put_permission("u", "/", "", r"^amq\.default$", "")
    assert access.may("u", "/", "write", "")
    access.put_permission("u", "/", "", "^$", "")
    assert not access.may("u", "/", "write", "")


def test_nothing_without_a_permission(access: Access) -> None:
    assert not access.may_enter("u", "other")
    assert not access.may("u", "other", "configure", "conf")
    assert not access.may("nobody", "/", "configure", "conf")


def test_a_revoked_right_does_not_linger(access: Access) -> None:
    assert access.may("u", "/", "write", "write")
    access.put_permission("u", "/", "^conf", "^never$", "read")
    assert not access.may("u", "/", "write", "write")
    access.put_permission("u", "/", "^conf", "write", "read")
    assert access.may("u", "/", "write", "write")
    access.delete_permission("u", "/")
    assert not access.may("u", "/", "write", "write")


def test_the_cache_is_bounded() -> None:
    access = Access(granted_cache_max=3)
    access.put_user("u", HASH, SHA256)
    access.put_permission("u", "/", ".*", ".*", ".*")
    for number in range(10):
        assert access.may("u", "/", "read", f"q{number}")
        assert len(access._granted) <= 3


def test_an_invalid_pattern_is_refused_and_changes_nothing(access: Access) -> None:
    version = access.version.number
    with pytest.raises(ValueError, match=r"invalid regular expression '\(': .*at position 1"):
        access.put_permission("u", "/", ".*", "(", ".*")
    assert access.version.number == version
    assert access.may("u", "/", "write", "write")


def test_a_permission_needs_its_user(access: Access) -> None:
    with pytest.raises(LookupError, match="user 'nobody' does not exist"):
        access.put_permission("nobody", "/", "", "", "")
    with pytest.raises(LookupError, match="user 'nobody' does not exist"):
        access.put_topic_permission("nobody", "/", "x", "", "")


def test_drop_vhost(access: Access) -> None:
    access.put_permission("u", "other", "", "", ".*")
    access.put_topic_permission("u", "/", "x", "", "")
    assert access.drop_vhost("/") == [
        drop(PermissionRecord("u", "/", "", "", "")),
        drop(TopicPermissionRecord("u", "/", "x", "", "")),
    ]
    assert not access.may_enter("u", "/")
    assert access.may_enter("u", "other")
    assert access.drop_vhost("/") == []


# Patterns: PCRE there, `re` here


@pytest.mark.parametrize(
    ("pattern", "name", "found"),
    [
        ("^[[:alpha:]_]+$", "abc_", True),
        ("^[[:alpha:]_]+$", ":", False),
        ("^[^[:digit:]]$", "1", False),
        ("^[]a]+$", "]a", True),
        ("^[[a]$", "[", True),
        (r"^a\z", "a", True),
        (r"^a\z", "a\n", False),
        (r"^a\Z", "a\n", True),
        (r"\\z", r"\z", True),
        (r"^\w$", "é", False),
        ("^é$", "é", True),
        ("(?i)^QUEUE", "queue.1", True),
        (r"^(?!amq\.).*", "amq.gen", False),
        (r"[[:space:]]\[", " [", True),
    ],
)
def test_patterns_mean_what_pcre_means(pattern: str, name: str, found: bool) -> None:
    assert (compile_pattern(pattern).search(name) is not None) is found


@pytest.mark.parametrize("pattern", ["[:alpha:]", "[[:cntrl:]]", r"\Qa.b\E", r"\p{L}", "*", "["])
def test_what_re_cannot_do_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="invalid regular expression"):
        compile_pattern(pattern)


@given(st.text(max_size=20) | st.text(alphabet=r"[]^:az\Z-(?", max_size=20))
def test_any_text_is_a_pattern_or_refused(pattern: str) -> None:
    with suppress(ValueError):
        compile_pattern(pattern).search("queue")


# Topic permissions


def test_all_topics_are_allowed_without_a_row(access: Access) -> None:
    assert access.may_topic("u", "/", "x", "write", "any")
    access.put_topic_permission("u", "/", "x", "^a", "^b")
    assert access.may_topic("u", "/", "x", "write", "a.1")
    assert not access.may_topic("u", "/", "x", "write", "b.1")
    assert access.may_topic("u", "/", "x", "read", "b.1")
    assert not access.may_topic("u", "/", "x", "read", "a.1")
    assert access.may_topic("u", "/", "y", "write", "b.1")


def test_variables_are_filled_in(access: Access) -> None:
    access.put_topic_permission(
        "u", "/", "x", r"^{vhost}\.{username}\.{vhost}{username}$", "^{client_id}$"
    )
    assert access.may_topic("u", "/", "x", "write", "/.u./u")
    assert not access.may_topic("u", "/", "x", "write", "{vhost}.{username}.{vhost}{username}")
    assert access.may_topic("u", "/", "x", "read", "{client_id}")  # known to MQTT only


def test_variables_are_not_escaped(access: Access) -> None:
    """As in rabbit_auth_backend_internal: a user named `.*` may well match everything."""
    access.put_user(".*", HASH, SHA256)
    access.put_topic_permission(".*", "/", "x", "^{username}$", "")
    assert access.may_topic(".*", "/", "x", "write", "everything")


def test_delete_topic_permission(access: Access) -> None:
    for exchange in ("x", "y", "z"):
        access.put_topic_permission("u", "/", exchange, "^a", "^a")
    assert access.delete_topic_permission("u", "/", "x") == [
        drop(TopicPermissionRecord("u", "/", "x", "", ""))
    ]
    assert access.may_topic("u", "/", "x", "write", "b")
    assert len(access.delete_topic_permission("u", "/")) == 2
    assert access.may_topic("u", "/", "z", "write", "b")
    assert access.delete_topic_permission("u", "/") == []


# Refusals


def refused(exception: pytest.ExceptionInfo[AMQPException]) -> tuple[str, int, int]:
    error = exception.value
    return error.reply_text, error.class_id, error.method_id


def test_words_of_a_refusal(access: Access) -> None:
    with pytest.raises(ChannelException) as error:
        access.require("u", "/", "configure", "queue", "q", DECLARE)
    assert refused(error) == (
        "ACCESS_REFUSED - configure access to queue 'q' in vhost '/' refused for user 'u'",
        50,
        10,
    )
    with pytest.raises(ChannelException) as error:
        access.require("u", "/", "read", "exchange", "", DECLARE)
    assert refused(error)[0] == (
        "ACCESS_REFUSED - read access to exchange 'amq.default' in vhost '/' refused for user 'u'"
    )
    access.require("u", "/", "configure", "queue", "conf", DECLARE)


def test_words_of_a_topic_refusal(access: Access) -> None:
    access.put_topic_permission("u", "/", "x", "", ".*")
    with pytest.raises(ChannelException) as error:
        access.require_topic("u", "/", "x", "write", "rk", (60, 40))
    assert refused(error) == (
        "ACCESS_REFUSED - write access to topic 'rk' in exchange 'x' in vhost '/'"
        " refused for user 'u'",
        60,
        40,
    )
    access.require_topic("u", "/", "x", "read", "rk", (50, 20))


def test_words_at_the_door(access: Access) -> None:
    with pytest.raises(ConnectionException) as error:
        access.require_entry("u", "v")
    assert refused(error) == ("NOT_ALLOWED - access to vhost 'v' refused for user 'u'", 10, 40)
    access.require_entry("u", "/")


@pytest.mark.parametrize("name", ["conf", "write", "read"])
def test_any_right_is_enough_for_require_any(access: Access, name: str) -> None:
    access.require_any("u", "/", "queue", name, DECLARE)


def test_require_any_names_configure(access: Access) -> None:
    with pytest.raises(ChannelException, match="configure access to queue 'q' in vhost '/'"):
        access.require_any("u", "/", "queue", "q", DECLARE)


# The journal


def test_every_change_is_an_entry_and_a_version() -> None:
    access = Access()
    user = UserRecord("u", HASH, SHA256, ("administrator",))
    permission = PermissionRecord("u", "/", "a", "b", "c")
    topic = TopicPermissionRecord("u", "/", "x", "a", "b")
    steps: list[tuple[Callable[[], DefinitionEntries], DefinitionEntries]] = [
        (lambda: access.put_user("u", HASH, SHA256, ["administrator"]), [encode(user)]),
        (lambda: access.put_permission("u", "/", "a", "b", "c"), [encode(permission)]),
        (lambda: access.put_topic_permission("u", "/", "x", "a", "b"), [encode(topic)]),
        (lambda: access.delete_topic_permission("u", "/", "x"), [drop(topic)]),
        (lambda: access.delete_permission("u", "/"), [drop(permission)]),
        (lambda: access.delete_user("u"), [drop(user)]),
    ]
    for change, entries in steps:
        version = access.version.number
        assert change() == entries
        assert access.version.number > version
        version = access.version.number
        assert change() == []  # once more changes nothing, so nobody's answers grow old
        assert access.version.number == version


def test_restore_in_any_order(access: Access) -> None:
    access.put_topic_permission("u", "/", "x", "^a", "^b")
    records: list[UserRecord | PermissionRecord | TopicPermissionRecord] = [
        *access.topic_permissions(),
        *access.permissions(),
        *access.users(),
    ]
    other = Access()
    for record in records:
        restored = decode(*encode(record))
        assert isinstance(restored, UserRecord | PermissionRecord | TopicPermissionRecord)
        other.restore(restored)
    assert other.users() == access.users()
    assert other.permissions() == access.permissions()
    assert other.topic_permissions() == access.topic_permissions()
    assert other.authenticate("u", b"secret") is not None
    assert not other.may_topic("u", "/", "x", "write", "b")


@pytest.mark.parametrize("pattern", ["(a+)+$", "^(a|a)*$", ".*a.*a.*a.*b", "(a*)*b", r"(?:a+)+\Z"])
def test_no_pattern_takes_long_on_any_name(pattern: str) -> None:
    """Under `re` each of these would take longer than anybody waits."""
    for compiled in (compile_pattern(pattern), compile_name_pattern(pattern)):
        assert compiled.search("a" * 100_000 + "!") is None


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (r"(?!a+)b*", "too long to match"),
        (r"(a+)\1*", "too long to match"),
        ("((a{99}){99}){99}", "too long to match"),
        ("a" * 5000, "too large"),
    ],
)
def test_what_might_take_long_is_refused(pattern: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        compile_pattern(pattern)


def test_repeated_groups_mean_what_pcre_means() -> None:
    assert compile_pattern("^(a|b)*$").search("ab\n")
    assert not compile_pattern(r"^(a|b)*\z").search("ab\n")
    assert compile_pattern("^([[:alpha:]]+\\.)*x$").search("a.b.x")
    assert not compile_pattern("^(.+)+x$").search("\ud800")


def test_the_brokers_own_name_cannot_be_a_users() -> None:
    access = Access()
    with pytest.raises(ValueError, match="user name 'rmq-internal' is reserved"):
        access.put_user("rmq-internal", hash_password("x", b"salt"), SHA256)
    assert access.authenticate("rmq-internal", b"x") is None
