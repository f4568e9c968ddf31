"""LangChain's models of OpenAI, for chat and for embeddings; the first asks by Responses where an option says so."""

from __future__ import annotations

import os
import sysconfig

import tiktoken
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import SecretStr

from testkit.openai_server import vector_of
from tests.clients.asking import GPT, call, continued, main, url
from tests.clients.langchain_calls import calls_of

# Else tiktoken fetches it; LiteLLM comes with a copy.
os.environ["TIKTOKEN_CACHE_DIR"] = f"{sysconfig.get_path('purelib')}/litellm/litellm_core_utils/tokenizers"
BASE, KEY = f"{url()}/v1", SecretStr("none")


@call("ChatOpenAI(use_responses_api=True).invoke", GPT)
def response(model: str, text: str) -> object:
    return ChatOpenAI(model=model, base_url=BASE, api_key=KEY, use_responses_api=True).invoke(text).text


@call("ChatOpenAI(use_responses_api=True).stream", GPT, streamed=True)
def response_streamed(model: str, text: str) -> object:
    chat = ChatOpenAI(model=model, base_url=BASE, api_key=KEY, use_responses_api=True)
    return "".join(chunk.text for chunk in chat.stream(text))


def tokens(text: str) -> list[int]:
    return tiktoken.get_encoding("cl100k_base").encode(text)


@call("OpenAI.invoke, by completions", {"OpenAI": GPT["OpenAI"]}, expect=continued)
def completion(model: str, text: str) -> object:
    return OpenAI(model=model, base_url=BASE, api_key=KEY).invoke(text)


@call("OpenAI.stream, by completions", {"OpenAI": GPT["OpenAI"]}, streamed=True, expect=continued)
def completion_streamed(model: str, text: str) -> object:
    return "".join(OpenAI(model=model, base_url=BASE, api_key=KEY).stream(text))


@call(
    "OpenAIEmbeddings.embed_query, which sends tokens",
    {"OpenAI": "text-embedding-3-small"},
    expect=lambda text: vector_of(tokens(text)),
    sent=lambda text: str(tokens(text)),
)
def embedding(model: str, text: str) -> object:
    return OpenAIEmbeddings(model=model, base_url=BASE, api_key=KEY).embed_query(text)


if __name__ == "__main__":
    calls_of(lambda model: ChatOpenAI(model=model, base_url=BASE, api_key=KEY), GPT)
    main("langchain-openai")
