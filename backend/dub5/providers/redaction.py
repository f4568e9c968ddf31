"""What a provider says, without anything that is the operator's.

A provider's words are for the caller, whose request they are about. But they name the account that asked: its key,
organisation and project, the e-mail address of its owner, the address of a server inside the operator's network, the
id of the call. None of that is the caller's business. A pattern that takes too much costs a word; one that takes too
little cannot be taken back.

Time is linear in the length of the words, and that is bounded: each pattern begins at a fixed word or at the first
character of a token, and its repetitions are possessive.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import quote

MOST_WORDS = 2000
"""Characters of a provider's message that are looked at: it may echo all of the caller's request."""

MOST_SHOWN = 1000
"""Characters of it that are shown."""

REDACTED = "[redacted]"

_SHORT = 8
"""Characters of a key that is looked for only as a token of its own: local servers take `EMPTY` or `none` for one."""

_TRACEBACK = "Traceback (most recent call last)"

_URL = re.compile(r"\b[a-z][a-z0-9+.-]{1,15}://([^\s\"'<>)\]}`,]++)", re.IGNORECASE)

_ID = r"(?=[a-z._-]*+\d)"
"""A token with a digit in it, as ids have and words have not."""

_ACCOUNT = (
    r"(?:organi[sz]ation|org|project|account|workspace|team|tenant|subscription|customer|consumer|resource|deployment)"
    r"(?:s/|(?:[ _-]?(?:id|number|name))?[\s:=#(/]++)"
)

_CONTEXTS = (
    rf"{_ACCOUNT}[\"'`](?=[^\"'`\s]{{2,80}}+[\"'`])",
    rf"{_ACCOUNT}(?!\d{{1,3}}(?![\w-])){_ID}",
    r"(?:(?:request|trace|correlation|activity|operation|log)[ _-]?ids?|cf-ray|ray id)[\s:=\"'`(]++(?=[\w-]{6})",
    r"host(?:name)?[=:][\s\"'`]*+(?=\w)",
    r"(?:host|upstream|server|node|pod|tcp|udp)[ \"'`]++(?=[\w-]++(?:\.[\w-]++)*+:\d{2,5}\b)",
    r"lookup (?=[\w.-]++ on )",
    r"(?:projects|accounts)/",
    (
        r"(?:project|account|organi[sz]ation|workspace)[ =:]++(?=[a-z]\w*+-\w)"
        r"(?!\w*+-(?:wide|level|owned|specific)\b)"
    ),
)
"""The words before it, which are kept, say what the next one is."""

_PATTERNS = (
    # Keys, masked or not.
    r"\b(?:[spr]k|(?:x[-_ ])?(?:api[-_ ]?)?key|token|bearer|basic)[-_ :=\"'`(]++(?=[a-z._/-]*+[0-9*=])[\w*.+/=-]{6,}+",
    r"\b(?:AIza|ya29\.|gsk_|xai-|hf_|nvapi-|pplx-|gh[a-z]_|eyJ|AKIA|ASIA)[\w.-]{8,}+",
    r"(?<![\w*.-])[\w.-]{0,40}+\*{3,}+[\w.*-]*+",
    # Organisations, projects, accounts, people.
    r"\b(?:org|proj|acct|acc|ak|cus|wrkspc|ws|team|tenant|user)[-_](?=[a-z_-]*+\d)[\w-]++",
    r"\b(?:org-|proj_)(?!(?:wide|level|owned|specific|admin|id|name)\b)[\w-]{3,}+",
    r"\barn:[\w-]*+:[^\s\"'`,)]++",
    r"(?<![\w.+-])[\w.+-]++@[\w-]++(?:\.[\w-]++)++",
    # Ids of a call or an account.
    r"\b(?:req|request|trace)_(?=[a-z_-]*+\d)[\w-]++",
    r"(?<![\w-])[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(?![\w-])",
    r"(?<![\w-])(?=[A-Za-z]*+\d)(?=\d*+[A-Za-z])[A-Za-z0-9]{24,}+",
    # Hosts inside the operator's network, pods, addresses.
    (
        r"(?<![\w.-])(?:[\w-]++\.)+?(?:internal|local|localdomain|lan|corp|intranet|consul|svc(?:\.[\w-]++)*+)"
        r"(?![\w-]|\.\w)(?::\d++)?"
    ),
    r"\blocalhost(?::\d++)?(?![\w-])",
    r"(?<![\w.-])[a-z0-9]++(?:-[a-z0-9]++)*?-[a-f0-9]{8,10}-[a-z0-9]{5}(?![\w-])",
    r"(?<![\w.])\d{1,3}+(?:\.\d{1,3}+){3}(?![\w.]*\w)(?::\d++)?",
)
"""What shows by itself what it is."""

_CONTEXT = re.compile(rf"\b({'|'.join(_CONTEXTS)})[^\s\"'`,;()\[\]]++", re.IGNORECASE)
_PATTERN = re.compile("|".join(_PATTERNS), re.IGNORECASE)
_MAYBE_IPV6 = re.compile(
    r"(?<![\w:.])\[?+([0-9A-Fa-f]{0,4}+(?::[0-9A-Fa-f]{0,4}+){2,8})(?![\w:])\]?+(?::\d++)?"
)


class Redactor:
    """For one provider: `secrets` are its keys, `hosts` where it is asked."""

    def __init__(self, *secrets: str, hosts: Iterable[str] = ()) -> None:
        self._hosts = tuple(host.lower() for host in hosts)
        patterns = [_as_written(secret) for secret in secrets if secret]
        patterns += [
            rf"(?<![\w.-])(?:[\w-]++\.)*?{re.escape(host)}(?![\w-])(?::\d++)?" for host in self._hosts
        ]
        self._own = re.compile("|".join(patterns), re.IGNORECASE) if patterns else None
        self._plain = tuple(secret for secret in secrets if len(secret) >= _SHORT)

    def __call__(self, words: str) -> str:
        """`words` without what is the operator's, at most MOST_SHOWN characters, none of them a control."""
        for secret in self._plain:  # all of the words: a key must not be cut in two below
            words = words.replace(secret, REDACTED)
        words = _bounded(words.partition(_TRACEBACK)[0])
        words = _URL.sub(self._address, words)
        if self._own is not None:
            words = self._own.sub(REDACTED, words)
        words = _PATTERN.sub(REDACTED, _CONTEXT.sub(rf"\1{REDACTED}", words))
        words = _MAYBE_IPV6.sub(_ipv6, words)
        return words[:MOST_SHOWN].strip()

    def identifier(self, word: str) -> str | None:
        """`word`, or None where anything of it is the operator's."""
        return word if self(word) == word else None

    def _address(self, found: re.Match[str]) -> str:
        """Pages of documentation stay, what leads to the operator's servers does not."""
        authority = re.split(r"[/?#]", found[1], maxsplit=1)[0]
        host = authority.rpartition("@")[2].partition(":")[0].lower()
        private = "." not in host or any(f".{host}".endswith(f".{own}") for own in self._hosts)
        return REDACTED if private or "@" in authority or authority.startswith("[") else found[0]


def _as_written(secret: str) -> str:
    """A pattern for a key: as it is, as part of a URL, or only its beginning, as those show it that mask the rest."""
    written = rf"(?<![A-Za-z0-9])(?:{re.escape(secret)}|{re.escape(quote(secret, safe=''))})(?![A-Za-z0-9])"
    if len(secret) < 2 * _SHORT:
        return written
    return rf"{written}|{re.escape(secret[:_SHORT])}[\w.*…-]*+"


def _bounded(words: str) -> str:
    """What is looked at, without the token that the bound would cut in two, and without control characters."""
    if len(words) > MOST_WORDS:
        words = words[: max(words.rfind(" ", 0, MOST_WORDS), MOST_SHOWN)]
    words = words.encode("utf-8", "replace").decode()  # lone surrogates cannot be sent
    return "".join(each if each.isprintable() or each == "\n" else " " for each in words)


def _ipv6(found: re.Match[str]) -> str:
    try:
        ipaddress.IPv6Address(found[1])
    except ValueError:
        return found[0]
    return REDACTED
