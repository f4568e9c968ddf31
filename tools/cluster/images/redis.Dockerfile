# Redis, from Debian's package, that keeps nothing.
ARG BASE=docker.io/library/debian:trixie-slim
FROM ${BASE}
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends redis-server && rm -rf /var/lib/apt/lists
USER 65532:65532
WORKDIR /tmp
CMD ["redis-server", "--save", "", "--appendonly", "no"]
