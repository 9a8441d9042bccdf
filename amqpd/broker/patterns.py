"""Regular expressions on names, as operators write them for RabbitMQ: PCRE, found anywhere.

What Python's `re` writes in another way is translated, what it lacks is refused: a rule must never
mean something else than its author wrote. ASCII, because PCRE's \\w and \\d know no Unicode there.

Names are chosen by clients, so no pattern may take long on any of them. `re` tries one way after
the other, which for `(a+)+$` are more than there is time for (PCRE gives up after a number of
steps, and RabbitMQ takes that for a name that does not match). A pattern that repeats a group, or
more than one thing, is therefore searched by RE2, whose time is linear in the length of the name.
What RE2 lacks (looking around, back references) is for patterns that do not.
"""

from __future__ import annotations

import re
import warnings
from typing import Final, Protocol

from amqpd.broker.erlang_terms import term

PATTERN_LENGTH_MAX: Final = 4096
"""Longest pattern, in characters."""
RE2_MEMORY_OCTETS: Final = 1 << 20
"""What RE2 may need for one pattern: `((a{99}){99}){99}` is short, and large."""


class InvalidPattern(ValueError):
    """A pattern that cannot be searched for; `str()` names it and says why, with the position."""

    def __init__(self, pattern: str, problem: str, position: int) -> None:
        super().__init__(pattern, problem, position)
        self.pattern = pattern
        self.problem = problem
        """In PCRE's words, or Python's where PCRE's are not known."""
        self.position = position

    @property
    def reason(self) -> str:
        """As Erlang shows it: `{"missing )",2}`."""
        return f"{{{term(self.problem)[2:-2]},{self.position}}}"

    def __str__(self) -> str:
        text = f"invalid regular expression {self.pattern!r}"
        return f"{text}: {self.problem} at position {self.position}"


class Pattern(Protocol):
    """Something to look for in names, in a time that does not depend on what they are."""

    def search(self, name: str, /) -> object:
        """Something true if it is found in the name; None if not."""


def compile_pattern(pattern: str) -> Pattern:
    """A permission's regular expression, ready to search; an empty one matches nothing.

    Raises InvalidPattern.
    """
    return _compile(pattern or "^$")


def compile_name_pattern(pattern: str) -> Pattern:
    """A policy's regular expression, ready to search; an empty one matches every name.

    Raises InvalidPattern.
    """
    return _compile(pattern)


def compile_filter(pattern: str) -> Pattern:
    """What somebody looks for in a list, in upper or lower case. Raises InvalidPattern."""
    return _compile(pattern, re.IGNORECASE)


def compile_topic_pattern(pattern: str, user: str, vhost: str) -> Pattern:
    """A topic permission's, with its variables filled in, which for one row never change."""
    # Plain replacement, one after the other, as in rabbit_auth_backend_internal.
    return compile_pattern(pattern.replace("{username}", user).replace("{vhost}", vhost))


def _compile(pattern: str, flags: re.RegexFlag = re.NOFLAG) -> Pattern:
    """Raises InvalidPattern."""
    if len(pattern) > PATTERN_LENGTH_MAX:
        raise InvalidPattern(pattern, "regular expression is too large", PATTERN_LENGTH_MAX)
    try:
        translated = _from_pcre(pattern)
        with warnings.catch_warnings():
            # `[[` and the like may change their meaning some day; today it is PCRE's.
            warnings.simplefilter("ignore", FutureWarning)
            compiled = re.compile(translated, re.ASCII | flags)
        if _is_simple(translated):
            return compiled
        return _LinearPattern(translated, ignore_case=re.IGNORECASE in flags)
    except re.error as error:
        raise _invalid(pattern, error) from None
    except (OverflowError, RecursionError) as error:
        raise InvalidPattern(pattern, str(error), len(pattern)) from None


_ATOM: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?", re.DOTALL)
"""What is no repetition, though it may have `*`, `+`, `{` or `?` in it."""
_REPETITION: Final = re.compile(r"[*+?{]")
_REPEATED_GROUP: Final = re.compile(r"\)[*+?{]")


def _is_simple(pattern: str) -> bool:
    """Whether `re` has few ways to try: it repeats one thing at most, and that is no group."""
    bare = _ATOM.sub("a", pattern)
    return len(_REPETITION.findall(bare)) < 2 and _REPEATED_GROUP.search(bare) is None


class _LinearPattern:
    """A pattern that RE2 searches: it may repeat as much as it likes."""

    __slots__ = ("_compiled",)

    def __init__(self, pattern: str, *, ignore_case: bool) -> None:
        """Raises re.error."""
        import re2  # type: ignore[import-untyped]  # 2 MB, which most brokers never need

        options = re2.Options()
        options.log_errors = False
        options.max_mem = RE2_MEMORY_OCTETS
        options.case_sensitive = not ignore_case
        try:
            self._compiled = re2.compile(_ATOM_OR_END.sub(_for_re2, pattern), options)
        except (re2.error, UnicodeEncodeError) as error:
            reason = error.args[0] if error.args else "refused by RE2"
            shown = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
            raise re.error(f"this might take too long to match ({shown})", pattern, 0) from None

    def search(self, name: str, /) -> object:
        """As `Pattern.search`."""
        return self._compiled.search(name.encode(errors="replace"))


_ATOM_OR_END: Final = re.compile(_ATOM.pattern + r"|\$", re.DOTALL)


def _for_re2(found: re.Match[str]) -> str:
    """`$` is also before a last line feed, and `\\Z` is the very end."""
    if found[0] == "$":
        return r"(?:\n?\z)"
    return r"\z" if found[0] == r"\Z" else found[0]


_POSIX_CLASSES: Final = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "digit": "0-9",
    "lower": "a-z",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\s",
    "upper": "A-Z",
    "word": r"\w",
    "xdigit": "0-9a-fA-F",
}

_POSIX_NAME: Final = re.compile(r"\[:(\^?\w+):\]")
_PCRE_ONLY: Final = re.compile(
    r"\\(?P<escape>.)|(?P<set>\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\])", re.DOTALL
)


def _from_pcre(pattern: str) -> str:
    return _PCRE_ONLY.sub(_translated, pattern)


def _translated(found: re.Match[str]) -> str:
    """The Python form of an escape or of a [set]."""
    if found["escape"] == "z":  # the very end of the text
        return r"\Z"
    if found["escape"] == "Z":  # the end, or before a last line feed
        return r"(?:\n?\Z)"
    if found["set"] is None:
        return found[0]
    if _POSIX_NAME.fullmatch(found["set"]):
        raise re.error(f"{found[0]} is allowed within [ ] only")
    return _POSIX_NAME.sub(_posix_class, found["set"])


def _posix_class(found: re.Match[str]) -> str:
    if found[1] not in _POSIX_CLASSES:
        raise re.error(f"{found[0]} is not supported")
    return _POSIX_CLASSES[found[1]]


_PCRE_WORDS: Final = (
    ("missing ), unterminated subpattern", "missing )", True),
    ("unterminated character set", "missing terminating ] for character class", True),
    ("bad escape (end of pattern)", "\\ at end of pattern", True),
    (
        "missing >, unterminated name",
        "syntax error in subpattern name (missing terminator)",
        True,
    ),
    ("unbalanced parenthesis", "unmatched parentheses", False),
    ("nothing to repeat", "nothing to repeat", False),
    ("multiple repeat", "nothing to repeat", False),
)
"""What Python says, what PCRE says, and whether PCRE places it at the end of the pattern."""


def _invalid(pattern: str, error: re.error) -> InvalidPattern:
    position = len(pattern) if error.pos is None else error.pos
    for python, pcre, at_end in _PCRE_WORDS:
        if error.msg == python:
            return InvalidPattern(pattern, pcre, len(pattern) if at_end else position)
    return InvalidPattern(pattern, error.msg, position)
