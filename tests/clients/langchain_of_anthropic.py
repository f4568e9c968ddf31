"""LangChain's chat model of Anthropic."""

from __future__ import annotations

from langchain_anthropic import ChatAnthropic
from pydantic import SecretStr

from tests.clients.asking import CLAUDE, main, url
from tests.clients.langchain_calls import calls_of

if __name__ == "__main__":
    calls_of(lambda model: ChatAnthropic(model_name=model, base_url=url(), api_key=SecretStr("none")), CLAUDE)
    main("langchain-anthropic")
