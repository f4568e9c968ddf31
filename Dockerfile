# The backend and the operator as one image: no shell, no package manager and no root needed to run it, and a root file system that
# may be read-only. BASE is any Debian or Ubuntu with Python 3.11 or newer, its venv module and CA certificates.
#
#   docker build --tag dub5 .
#   docker run --rm --publish 127.0.0.1:8000:8000 --env DUB5_SERVER__HOST=0.0.0.0 --env DUB5_AUTH__ANONYMOUS=true dub5

ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS build
ENV UV_PROJECT_ENVIRONMENT=/opt/dub5 \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never \
    UV_SYSTEM_CERTS=true
WORKDIR /src
COPY tools/uv.txt ./
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --quiet --no-cache-dir --requirement uv.txt
# Dependencies before sources: this layer changes only with the lock.
COPY pyproject.toml uv.lock ./
RUN /opt/uv/bin/uv sync --quiet --locked --no-dev --extra otel --extra operator --no-install-project --python "$(command -v python3)"
COPY README.md LICENSE NOTICE ./
COPY backend backend
COPY operator operator
RUN /opt/uv/bin/uv sync --quiet --locked --no-dev --extra otel --extra operator --no-editable

FROM ${BASE}
LABEL org.opencontainers.image.title="DUB5" \
      org.opencontainers.image.description="OpenAI-compatible LLM chat backend with personalities, provider fallback and a shared answer cache" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY LICENSE NOTICE /licenses/
COPY --from=build /opt/dub5 /opt/dub5
ENV PATH=/opt/dub5/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /
EXPOSE 8000 9000
STOPSIGNAL SIGTERM
ENTRYPOINT ["dub5"]
CMD ["serve"]
