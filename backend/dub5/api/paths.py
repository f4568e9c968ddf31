"""Which paths there are besides those of the routes: the same without their version, and what is asked for in vain.

Clients differ in whether their `base_url` ends in `/v1`, and many APIs around chat are not served: who asks for one is
told so in words, and what is served instead.
"""

from __future__ import annotations

from collections.abc import Iterable

_VERSION = "/v1"

_UNVERSIONED = frozenset(
    {"chat", "completions", "embeddings", "messages", "models", "personalities", "responses"}
)
"""First parts of paths that mean the same without `/v1`."""

_NOT_SERVED = (
    ("/v1/images", "Images are"),
    ("/v1/videos", "Videos are"),
    ("/v1/audio", "Speech and transcriptions are"),
    ("/v1/moderations", "Moderations are"),
    ("/v1/files", "Files are"),
    ("/v1/uploads", "Uploads are"),
    ("/v1/batches", "Batches are"),
    ("/v1/rerank", "Reranking is"),
    ("/rerank", "Reranking is"),
    ("/v2/rerank", "Reranking is"),
    ("/v1/realtime", "The realtime API is"),
    ("/v1/fine_tuning", "Fine-tuning is"),
    ("/v1/vector_stores", "Vector stores are"),
    ("/v1/conversations", "Conversations are"),
    ("/v1/assistants", "Assistants are"),
    ("/v1/threads", "Assistants are"),
    ("/openai/deployments", "Azure's classic deployments are"),
    ("/api", "Ollama's own API is"),
)
"""Where APIs begin that are not here, and the beginning of a sentence about each."""


def canonical(path: str) -> str:
    """`/v1/models` for `/models`, and for `/v1/v1/models`, where a client adds a version that its base has already."""
    if path.startswith("/v1/v1/"):
        return path.removeprefix(_VERSION)
    return _VERSION + path if path[1:].partition("/")[0] in _UNVERSIONED else path


def nothing_at(path: str, served: Iterable[str]) -> str:
    """What a caller is told where there is no route at `path`; `served` are the paths of the routes."""
    versioned = sorted({each for each in served if each.startswith("/v1/") and "{" not in each})
    instead = f"Served are {', '.join(versioned)}."
    for beginning, subject in _NOT_SERVED:
        if path == beginning or path.startswith(f"{beginning}/"):
            return f"{subject} not served here. {instead}"
    return f"There is nothing at {path[:200]}. {instead}"
