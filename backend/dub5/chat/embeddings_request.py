"""An Embeddings request from bytes: its texts, each once, and what else there is.

Checked are the fields that we act on; an error names the field, `input[3]`. Others reach the provider as they came.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from dub5.chat.request import decode_body, invalid
from dub5.errors import InvalidRequest
from dub5.providers.protocol import Json
from dub5.vectors import MOST_NUMBERS

MOST_TEXTS = 2048
"""In one request, as with OpenAI."""

Text = str | list[int]
"""What a vector is made of: a text, or its tokens."""

_Token = Annotated[int, Meta(ge=0, le=2**31)]
_OURS = frozenset({"model", "input", "encoding_format"})
_CHARACTERS_PER_TOKEN = 4


class _Embeddings(msgspec.Struct):
    """The fields whose type and range we vouch for."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    input: (
        Annotated[str, Meta(min_length=1, description="One text.")]
        | Annotated[
            list[Annotated[str, Meta(min_length=1)] | _Token | Annotated[list[_Token], Meta(min_length=1)]],
            Meta(
                min_length=1,
                description="Texts, up to 2048; or the tokens of one text; or lists of tokens, one for each text.",
            ),
        ]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=MOST_NUMBERS)] | None = None
    user: str | None = None


class EmbeddingsRequest(msgspec.Struct, frozen=True):
    """`texts` are those of the input, each once; `positions` says for each of the input which of them it is.

    `fields` is what a provider is asked beside the texts. `size` is the body's bytes, and `cost` about how many bytes
    of memory it takes.
    """

    model: str
    texts: list[Text]
    positions: list[int]
    fields: Json
    base64: bool
    user: str | None
    size: int
    cost: int


async def read(raw: bytes, *, room: Callable[[int], None]) -> EmbeddingsRequest:
    """In steps where the body is large; then `room` is called with what it will cost, and may raise.

    InvalidRequest names what is wrong and where.
    """
    decoding = decode_body(raw, room=room)
    del raw
    decoded = await decoding
    body = decoded.body
    try:
        known = msgspec.convert(body, _Embeddings)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from None
    texts, positions = _each_once(_texts(known.input))
    return EmbeddingsRequest(
        model=known.model,
        texts=texts,
        positions=positions,
        fields={name: value for name, value in body.items() if name not in _OURS},
        base64=known.encoding_format == "base64",
        user=known.user,
        size=decoded.size,
        cost=decoded.cost,
    )


def require_one_kind(field: str, given: list[str | int | list[int]]) -> None:
    """InvalidRequest where a list has more than one of texts, tokens, and lists of tokens."""
    for index, each in enumerate(given):
        if type(each) is not type(given[0]):
            raise InvalidRequest(
                f"`{field}[{index}]` is of another type than `{field}[0]`: "
                "a list has texts, tokens, or lists of tokens.",
                param=f"{field}[{index}]",
            )


def _texts(given: str | list[str | int | list[int]]) -> list[Text]:
    if isinstance(given, str):
        return [given]
    require_one_kind("input", given)
    if isinstance(given[0], int):
        return [given]  # type: ignore[list-item]  # the tokens of one text
    if len(given) > MOST_TEXTS:
        raise InvalidRequest(f"`input` has more than {MOST_TEXTS} texts.", param="input")
    return given  # type: ignore[return-value]


def _each_once(given: list[Text]) -> tuple[list[Text], list[int]]:
    texts: list[Text] = []
    known: dict[str | tuple[int, ...], int] = {}
    positions = []
    for each in given:
        name = each if isinstance(each, str) else tuple(each)
        position = known.setdefault(name, len(texts))
        if position == len(texts):
            texts.append(each)
        positions.append(position)
    return texts, positions


def tokens_of(text: Text) -> int:
    """About how many tokens a text has."""
    if isinstance(text, str):
        return max(1, len(text) // (_CHARACTERS_PER_TOKEN if text.isascii() else 2))
    return len(text)
