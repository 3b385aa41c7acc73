"""What may be shown of a text: without secrets, and without characters that would steer a terminal.

Every error, log line, manifest and `error` column that the jobs write goes through `public`, every line on a terminal
through `printable` as well.
"""

import os
import re
import unicodedata

SECRET_VARIABLES = re.compile(r"(SECRET|TOKEN|PASSWORD|KEY|CONNECTION_STRING)(_ID)?$")
SHORTEST_SECRET = 16
"""Values of environment variables that are shorter are words that a message may hold by chance (`test`)."""

# `user:password@` after `://`; a password may hold slashes, as AWS's do, but `host:9000/a@b` has no user.
USER = re.compile(r"://(?:[^/\s@,:'\"]*:(?:[^\s/'\"]*|(?!\d+/)[^\s@,'\"]*)|[^/\s@,:'\"]+)@")
# A query, which on s3:// is one only where it has an `=`: `s3://bucket/what?.jpg` is a key. URIs may stand in a list
# with commas between them; a comma within a query is followed by more of it.
QUERY = re.compile(r"(\w*://[^\s?,'\"]*)\?[^\s,'\"]*(?:,(?![^\s,]*://)[^\s,'\"]*[=&][^\s,'\"]*)*(?<![:.)])")
NAMED = re.compile(
    r"(?i)\b((?:proxy-)?authorization|x-amz-[\w-]*(?:token|signature|credential)|signature|credential|sig|"
    r"(?:access_|session_|refresh_|id_)?token|password|(?:aws_)?(?:secret_)?access_key|secret|api[_-]?key|accountkey)"
    r"(['\"]?\s*[:=]\s*['\"]?)((?:aws4-hmac-sha256|basic|bearer|digest)\s+)?[^\s'\",&;)]+"
)


def public(text: str) -> str:
    """Return a text without what may be secret: in URLs users, passwords and queries; elsewhere named keys and tokens.

    The values of this process' own secrets (`AWS_SECRET_ACCESS_KEY` and all that are named alike) are cut out wherever
    they stand.
    """
    text = writable(text)
    for name, value in os.environ.items():
        if len(value) >= SHORTEST_SECRET and SECRET_VARIABLES.search(name):
            text = text.replace(value, "***")
    without_queries = QUERY.sub(_without_query, USER.sub("://", text))
    return NAMED.sub(r"\1\2***", without_queries)


def _without_query(found: re.Match[str]) -> str:
    is_query = "=" in found[0] or found[1].startswith("http")
    return found[1] if is_query else found[0]


def writable(text: str) -> str:
    """Return a text with escapes for surrogates, which JSON and file names may hold, and no UTF-8 file can."""
    return text.encode(errors="backslashreplace").decode()


def printable(text: str) -> str:
    r"""Return a text in one line, with escapes (`\x1b`) for what moves a cursor, turns writing round or is no text."""
    return "".join(character if _is_plain(character) else _escaped(character) for character in text)


def _is_plain(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"  # all kinds of spaces


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
