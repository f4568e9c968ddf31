"""LiteLLM's SDK, by the providers that it knows as `openai/` and `anthropic/`."""

from __future__ import annotations

import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches its prices at the start

import litellm

from testkit.openai_server import vector_of
from tests.clients.asking import CLAUDE, GPT, call, main, url

OF_GPT = {provider: f"openai/{model}" for provider, model in GPT.items()}
OF_CLAUDE = {provider: f"anthropic/{model}" for provider, model in CLAUDE.items()}


def asked(model: str, text: str) -> dict[str, Any]:
    base = url() if model.startswith("anthropic/") else f"{url()}/v1"
    messages = [{"role": "user", "content": text}]
    return {"model": model, "messages": messages, "api_base": base, "api_key": "none"}


def completion(model: str, text: str) -> object:
    return litellm.completion(**asked(model, text)).choices[0].message.content


def streamed(model: str, text: str) -> object:
    chunks = litellm.completion(**asked(model, text), stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def response(model: str, text: str) -> object:
    fields = asked(model, text)
    return litellm.responses(input=fields.pop("messages"), **fields).output_text


for prefix, models in (("openai/", OF_GPT), ("anthropic/", OF_CLAUDE)):
    call(f"`{prefix}` completion", models)(completion)
    call(f"`{prefix}` completion", models, streamed=True)(streamed)
    call(f"`{prefix}` responses", models)(response)


@call("`openai/` embedding", {"OpenAI": OF_GPT["OpenAI"]}, expect=vector_of)
def embedding(model: str, text: str) -> object:
    answer = litellm.embedding(model=model, input=[text], api_base=f"{url()}/v1", api_key="none")
    return answer.data[0]["embedding"]


if __name__ == "__main__":
    main("litellm")
