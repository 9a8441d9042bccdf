"""Regular expressions on names, as operators write them for RabbitMQ: PCRE, found anywhere.

What Python's `re` writes in another way is translated, what it lacks is refused: a rule must never
mean something else than its author wrote. ASCII, because PCRE's \\w and \\d know no Unicode there.
"""

from __future__ import annotations

import re
import warnings
from typing import Final

from amqpd.broker.erlang_terms import term


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A permission's regular expression, ready to search; an empty one matches nothing.

    Raises ValueError naming it.
    """
    try:
        return _compile(pattern or "^$")
    except re.error as error:
        raise ValueError(f"invalid regular expression {pattern!r}: {error}") from None


def compile_name_pattern(pattern: str) -> re.Pattern[str]:
    """A policy's regular expression, ready to search; an empty one matches every name.

    Raises ValueError with the reason as RabbitMQ shows it: `{"missing )",2}`.
    """
    try:
        return _compile(pattern)
    except re.error as error:
        raise ValueError(_erlang_reason(pattern, error)) from None


def compile_topic_pattern(pattern: str, user: str, vhost: str) -> re.Pattern[str]:
    """A topic permission's, with its variables filled in, which for one row never change."""
    # Plain replacement, one after the other, as in rabbit_auth_backend_internal.
    return compile_pattern(pattern.replace("{username}", user).replace("{vhost}", vhost))


def _compile(pattern: str) -> re.Pattern[str]:
    """Raises re.error."""
    try:
        with warnings.catch_warnings():
            # `[[` and the like may change their meaning some day; today it is PCRE's.
            warnings.simplefilter("ignore", FutureWarning)
            return re.compile(_from_pcre(pattern), re.ASCII)
    except (OverflowError, RecursionError) as error:
        raise re.error(str(error)) from None


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
        return r"(?=\n?\Z)"
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
    ("unbalanced parenthesis", "unmatched parentheses", False),
    ("nothing to repeat", "nothing to repeat", False),
    ("multiple repeat", "nothing to repeat", False),
)
"""What Python says, what PCRE says, and whether PCRE places it at the end of the pattern."""


def _erlang_reason(pattern: str, error: re.error) -> str:
    """`{"missing )",2}`; Python's own words where PCRE's are not known."""
    position = len(pattern) if error.pos is None else error.pos
    for python, pcre, at_end in _PCRE_WORDS:
        if error.msg == python:
            shown = pcre.replace("\\", "\\\\")
            return f'{{"{shown}",{len(pattern) if at_end else position}}}'
    return f"{{{term(error.msg)[2:-2]},{position}}}"
