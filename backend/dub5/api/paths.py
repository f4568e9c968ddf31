"""Which paths there are besides those of the routes: the same without their version, and what is asked for in vain.

Clients differ in whether their `base_url` ends in `/v1`, and many APIs around chat are not served: who asks for one is
told so in words, and what is served instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_VERSION = "/v1"

_UNVERSIONED = frozenset(
    {"chat", "completions", "embeddings", "messages", "models", "personalities", "responses"}
)
"""First parts of paths that mean the same without `/v1`."""

_NOT_SERVED = (
    ("images", "Images are"),
    ("videos", "Videos are"),
    ("audio", "Speech and transcriptions are"),
    ("moderations", "Moderations are"),
    ("files", "Files are"),
    ("uploads", "Uploads are"),
    ("batches", "Batches are"),
    ("messages/batches", "Batches are"),
    ("rerank", "Reranking is"),
    ("realtime", "The realtime API is"),
    ("fine_tuning", "Fine-tuning is"),
    ("evals", "Evaluations are"),
    ("vector_stores", "Vector stores are"),
    ("containers", "Containers are"),
    ("conversations", "Conversations are"),
    ("responses/[^/]+/cancel", "Responses in the background are"),
    ("responses/input_tokens", "Counts of a Response's tokens are"),
    ("responses/compact", "Shortened conversations are"),
    ("assistants", "Assistants are"),
    ("threads", "Assistants are"),
    ("skills", "Skills are"),
    ("complete", "Anthropic's older text completions are"),
    ("openai/deployments", "Azure's classic deployments are"),
    ("api", "Ollama's own API is"),
)
"""Patterns of where APIs begin that are not here, behind any version, and the beginning of a sentence about each."""

_ANY_VERSION = r"(?:/v[0-9])*/"


def canonical(path: str) -> str:
    """`/v1/models` for `/models`, and for `/v1/v1/models`, where a client adds a version that its base has already."""
    if path.startswith("/v1/v1/"):
        return path.removeprefix(_VERSION)
    return _VERSION + path if path[1:].partition("/")[0] in _UNVERSIONED else path


def not_served(path: str) -> str | None:
    """The beginning of a sentence about the API that has `path`, where that is one that is not here."""
    for beginning, subject in _NOT_SERVED:
        if re.match(f"{_ANY_VERSION}{beginning}(?:/|$)", path):
            return subject
    return None


def nothing_at(path: str, served: Iterable[str]) -> str:
    """What a caller is told where there is no route at `path`; `served` are the paths of the routes."""
    whole = sorted({each for each in served if "{" not in each})
    # On the port for operations no path has a version.
    instead = f"Served are {', '.join([each for each in whole if each.startswith(_VERSION)] or whole)}."
    subject = not_served(path)
    if subject is not None:
        return f"{subject} not served here. {instead}"
    return f"There is nothing at {path[:200]}. {instead}"
