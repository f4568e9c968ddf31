"""Has an answer changed? Fingerprints of what it says, and when two of them mean the same.

A provider seldom gives the same words twice unless it is told to. What counts as a change is the class's choice:

* `exact`: the messages to the letter. For `temperature: 0` and written answers.
* `text` (default): apart from case, punctuation at the ends of words, white space and Unicode forms.
* `json`: where the answer is JSON, its value: order of keys and layout do not matter. Else as `text`.
* `sketch`: mostly the same words in the same order, and the same numbers. Two answers worded anew are the same where
  their three-word shingles overlap by `SIMILAR` (Jaccard, estimated from the least `SKETCH` hashes: Broder, "On the
  resemblance and containment of documents", 1997). Numbers are compared exactly: prices, dates and counts are what
  goes stale, and one digit does not change a sketch.

Tool calls always count to the letter, apart from their ids. Embeddings would see a paraphrase that shares no words;
they would also cost a call of their own for each answer.

A fingerprint says how it was made. Two that were made differently cannot be compared.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Any, Literal

import msgspec

Comparison = Literal["exact", "text", "json", "sketch"]

SKETCH = 64
SIMILAR = 0.5
"""Two answers to one question, worded anew, share more than half of their shingles; two different ones hardly any."""

_WORDS = 3
_LONGEST_WORD = 256
"""Characters."""
_PUNCTUATION = ".,;:!?…\"'`´“”‘’()[]{}*_#"  # noqa: RUF001  # quotation marks of all kinds, and Markdown; no signs of numbers
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")


def fingerprint(completion: dict[str, Any], how: Comparison) -> str:
    """Of an answer's messages, without ids, dates and token counts."""
    messages = [choice.get("message") or {} for choice in completion.get("choices", [])]
    messages = [
        {**message, "tool_calls": [{**call, "id": None} for call in message.get("tool_calls") or ()]}
        for message in messages
    ]
    if how == "sketch":
        text = " ".join(_content(message) for message in messages)
        calls = [message["tool_calls"] for message in messages]
        exact = [sorted(set(_NUMBER.findall(text))), calls]
        return f"sketch:{_digest(exact)}:{_sketch(text)}"
    if how != "exact":
        reading = _value if how == "json" else _plain
        messages = [{**message, "content": reading(_content(message))} for message in messages]
    return f"{how}:{_digest(messages)}"


_FINGERPRINT = re.compile(r"sketch:[0-9a-f]{1,64}:([0-9a-f]{8}){1,256}|(?!sketch:)[a-z-]{1,20}:[^\n]{1,2000}")


def is_fingerprint(text: str) -> bool:
    """Whether `fingerprint` can have made it, of this release or another."""
    return _FINGERPRINT.fullmatch(text) is not None


def same(one: str, other: str) -> bool | None:
    """Whether two fingerprints are of answers that say the same; None where they cannot be compared."""
    if one.partition(":")[0] != other.partition(":")[0]:
        return None
    if not one.startswith("sketch:"):
        return one == other
    _, exact, sketch = one.split(":")
    _, other_exact, other_sketch = other.split(":")
    return exact == other_exact and _resemblance(sketch, other_sketch) >= SIMILAR


def _content(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "" if content is None else msgspec.json.encode(content, order="deterministic").decode()


def _plain(text: str) -> str:
    words = [word.strip(_PUNCTUATION) for word in _normal(text).casefold().split()]
    return " ".join(filter(None, words))


def _normal(text: str) -> str:
    """NFKC; of a text with long words a part at a time: a row of accents on one letter is sorted in quadratic time."""
    if text.isascii():  # as most are
        return text
    longest = max(map(len, text.split()), default=0)
    if longest <= _LONGEST_WORD:
        return unicodedata.normalize("NFKC", text)
    parts = (text[at : at + _LONGEST_WORD] for at in range(0, len(text), _LONGEST_WORD))
    return "".join(unicodedata.normalize("NFKC", part) for part in parts)


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return _plain(text)


def _digest(value: Any) -> str:
    return hashlib.blake2b(msgspec.json.encode(value, order="deterministic"), digest_size=16).hexdigest()


def _sketch(text: str) -> str:
    """The least hashes of its shingles, eight hexadecimal digits each."""
    words = _plain(text).split()
    shingles = {" ".join(words[at : at + _WORDS]) for at in range(max(1, len(words) - _WORDS + 1))}
    hashes = sorted(hashlib.blake2b(shingle.encode(), digest_size=4).hexdigest() for shingle in shingles)
    return "".join(hashes[:SKETCH])


def _resemblance(one: str, other: str) -> float:
    """Of the least hashes of both together, the share that both have."""
    mine, theirs = _hashes(one), _hashes(other)
    least = sorted(mine | theirs)[:SKETCH]
    return sum(each in mine and each in theirs for each in least) / len(least)


def _hashes(sketch: str) -> set[str]:
    return {sketch[at : at + 8] for at in range(0, len(sketch), 8)}
