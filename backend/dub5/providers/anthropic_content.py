"""Parts of a Chat Completions message as blocks of Anthropic's Messages API. Pure functions, no I/O.

A block has what the API knows of it and nothing else, for it refuses what it does not know. Blank texts are left
out: it refuses those, too. What it cannot read (sound, other formats of pictures, …) is Unsupported.

Sources: https://platform.claude.com/docs/en/api/messages, …/build-with-claude/vision, …/pdf-support
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from dub5.errors import Unsupported
from dub5.providers.protocol import Json

MOST_IMAGE = 5 * 2**20
"""Bytes of base64."""

_IMAGES = {
    "image/jpeg": rb"\xff\xd8\xff",
    "image/png": rb"\x89PNG",
    "image/gif": rb"GIF8",
    "image/webp": rb"RIFF....WEBP",
}
_TITLE = 500


def blocks(content: Any, where: str, kinds: frozenset[str]) -> list[Json]:
    """`content` of a message as blocks of these kinds."""
    if content is None:
        return []
    if isinstance(content, str):
        return [text(content)] if content.strip() else []
    parts = typed(content, list, where, "a string or a list of parts")
    named = [
        (f"{where}[{index}]", typed(part, dict, f"{where}[{index}]", "an object"))
        for index, part in enumerate(parts)
    ]
    found = [(at, _block(part, at)) for at, part in named]
    for at, block in found:
        if block["type"] not in kinds:
            raise cannot(f"{at}.type", "the provider of this model cannot read it here")
    return [block for _, block in found if block["type"] != "text" or block["text"].strip()]


def _block(part: Json, where: str) -> Json:
    kind = part.get("type")
    match kind:
        case "text" | "input_text" | "output_text":
            return text(typed(part.get("text") or "", str, f"{where}.text", "a string")) | mark(part)
        case "refusal":
            return text(typed(part.get("refusal"), str, f"{where}.refusal", "a string"))
        case "image_url":
            image = part.get("image_url")
            at = f"{where}.image_url.url"
            url = typed(image.get("url") if isinstance(image, dict) else image, str, at, "a string")
            if url[:21].lower() == "data:application/pdf;":
                return _written(url, at) | mark(part)
            return {"type": "image", "source": _image(url, at)} | mark(part)
        case "file":
            return _file(part, f"{where}.file") | mark(part)
        case "image":
            return {"type": "image", "source": _own_image(part.get("source"), f"{where}.source")} | mark(part)
        case "document":
            return _document(part, f"{where}.source") | mark(part)
        case "search_result":
            return _search_result(part, where) | mark(part)
        case "thinking" | "redacted_thinking":
            return thought(part) or text("")
    raise cannot(f"{where}.type", "the provider of this model cannot read it")


def text(words: str) -> Json:
    return {"type": "text", "text": words}


def thought(block: Any) -> Json | None:
    """A block of thinking as the API gave it; None where it is none, since it refuses what it did not sign."""
    match block:
        case {"type": "thinking", "thinking": str(words), "signature": str(signature)} if signature:
            return {"type": "thinking", "thinking": words, "signature": signature}
        case {"type": "redacted_thinking", "data": str(data)} if data:
            return {"type": "redacted_thinking", "data": data}
    return None


def mark(part: Json) -> Json:
    """The caller's own mark for the prompt cache, if it is one."""
    match part.get("cache_control"):
        case {"type": "ephemeral", "ttl": "5m" | "1h" as ttl}:
            return {"cache_control": {"type": "ephemeral", "ttl": ttl}}
        case {"type": "ephemeral"}:
            return {"cache_control": {"type": "ephemeral"}}
    return {}


# --- Pictures and documents ---


def _image(url: str, where: str) -> Json:
    if re.match(r"https://[^/\s]", url, re.IGNORECASE):
        return {"type": "url", "url": url}
    media_type, data = _data(url, where)
    return _image_data(media_type, data, where)


def _own_image(source: Any, where: str) -> Json:
    match source:
        case {"type": "base64", "media_type": str(media_type), "data": str(data)}:
            return _image_data(media_type.lower(), _base64(data, where), where)
        case {"type": "url", "url": str(url)} if re.match(r"https://[^/\s]", url, re.IGNORECASE):
            return {"type": "url", "url": url}
        case {"type": "file", "file_id": str(name)}:
            return {"type": "file", "file_id": name}
    raise cannot(where, "the provider of this model cannot read it")


def _image_data(media_type: str, data: str, where: str) -> Json:
    """The type that the bytes themselves tell goes before the one that was written: the API compares them."""
    start = base64.b64decode(data[:16])
    found = next((name for name, magic in _IMAGES.items() if re.match(magic, start, re.DOTALL)), None)
    kind = found or media_type.replace("image/jpg", "image/jpeg")
    if kind not in _IMAGES:
        raise cannot(where, "the provider of this model reads JPEG, PNG, GIF and WebP")
    if len(data) > MOST_IMAGE:
        raise cannot(where, "the provider of this model reads pictures of up to 5 MB in base64")
    return {"type": "base64", "media_type": kind, "data": data}


_LONGEST_HEAD = 500
"""Characters before the data of a data: URL."""


def _data(url: str, where: str) -> tuple[str, str]:
    """Media type and base64 of a data: URL, RFC 2397."""
    head = re.match(r"data:([^;,]*)(?:;[^;,]+)*;base64,", url[:_LONGEST_HEAD], re.IGNORECASE)
    if head is None:
        raise cannot(where, "must be an https URL, or a data: URL in base64")
    return head[1].strip().lower(), _base64(url[head.end() :], where)


def _base64(written: str, where: str) -> str:
    """Standard base64 with its padding and nothing between, as the API demands it."""
    data = unquote(written) if "%" in written else written
    data = "".join(data.split()).replace("-", "+").replace("_", "/")
    data += "=" * (-len(data) % 4)
    try:
        valid = bool(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError):
        valid = False
    if not valid:
        raise cannot(where, "is not base64")
    return data


def _file(part: Json, where: str) -> Json:
    file = typed(part.get("file"), dict, where, "an object")
    written = file.get("file_data")
    if not isinstance(written, str):
        raise cannot(where, "the provider of this model knows no files of others; send `file_data`")
    return _written(written, f"{where}.file_data") | _title(file.get("filename"))


def _written(url: str, where: str) -> Json:
    """The document in a data: URL."""
    media_type, data = _data(url, where)
    if media_type.startswith("text/"):
        words = base64.b64decode(data).decode("utf-8", "replace")
        source = {"type": "text", "media_type": "text/plain", "data": words}
        if words.strip():
            return {"type": "document", "source": source}
    if media_type == "application/pdf":
        return {"type": "document", "source": {"type": "base64", "media_type": media_type, "data": data}}
    raise cannot(where, "the provider of this model reads PDF and text")


def _document(part: Json, where: str) -> Json:
    match part.get("source"):
        case {"type": "base64", "data": str(data)}:
            source = {"type": "base64", "media_type": "application/pdf", "data": _base64(data, where)}
        case {"type": "text", "data": str(data)} if data.strip():
            source = {"type": "text", "media_type": "text/plain", "data": data}
        case {"type": "url", "url": str(url)} if url.startswith("https://"):
            source = {"type": "url", "url": url}
        case {"type": "file", "file_id": str(name)}:
            source = {"type": "file", "file_id": name}
        case _:
            raise cannot(where, "the provider of this model cannot read it")
    result = {"type": "document", "source": source} | _title(part.get("title")) | _citations(part)
    context = part.get("context")
    return result | ({"context": context} if isinstance(context, str) and context.strip() else {})


def _search_result(part: Json, where: str) -> Json:
    source, title = part.get("source"), part.get("title")
    said = blocks(part.get("content"), f"{where}.content", frozenset({"text"}))
    if not (isinstance(source, str) and isinstance(title, str) and said):
        raise cannot(where, "the provider of this model cannot read it")
    return {"type": "search_result", "source": source, "title": title, "content": said} | _citations(part)


def _title(title: Any) -> Json:
    return {"title": title[:_TITLE]} if isinstance(title, str) and title.strip() else {}


def _citations(part: Json) -> Json:
    match part.get("citations"):
        case {"enabled": bool(enabled)}:
            return {"citations": {"enabled": enabled}}
    return {}


# --- What is common to the translation ---


def cannot(where: str, why: str) -> Unsupported:
    return Unsupported(f"`{where}`: {why}.", param=where)


def each(holder: Json, name: str, where: str = "") -> Iterator[tuple[str, Json]]:
    """The objects of the list `holder[name]`, each with its path; none where it is absent."""
    path = f"{where}.{name}" if where else name
    listed = holder.get(name)
    for index, item in enumerate([] if listed is None else typed(listed, list, path, "a list")):
        yield f"{path}[{index}]", typed(item, dict, f"{path}[{index}]", "an object")


def typed(value: Any, kind: type | tuple[type, ...], where: str, name: str) -> Any:
    """`value` if it is of that kind; bool is not a number. Other servers may take what is not: Unsupported."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise cannot(where, f"must be {name}")
    return value
