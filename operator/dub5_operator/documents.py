"""Reads a document that stands in Redis under one name: what is published, what is announced."""

from __future__ import annotations

from typing import Any, TypeVar

from redis.exceptions import InvalidResponse, ResponseError

from dub5.contract import MOST_DOCUMENT, Decoder, Undecodable, decode
from dub5_operator.metrics import Noted

T = TypeVar("T")


async def read_document(redis: Any, key: str, decoder: Decoder[T], undecodable: Noted, kind: str) -> T | None:
    """None where there is none. Undecodable, which `undecodable` was told with its `kind`, where it cannot be read.

    Redis's own errors are passed on.
    """
    try:
        stored = await redis.getrange(key, 0, MOST_DOCUMENT)
        return decode(decoder, stored, most=MOST_DOCUMENT) if stored else None
    except (Undecodable, InvalidResponse) as error:
        reason = str(error)
    except ResponseError as error:
        if "WRONGTYPE" not in str(error):
            raise
        reason = "of another type"
    undecodable(kind, reason)
    raise Undecodable(reason)
