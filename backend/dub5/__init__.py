"""DUB5: an OpenAI-compatible LLM chat backend with personalities, provider fallback and a shared cache."""

from importlib.metadata import version

__version__ = version("dub5")
