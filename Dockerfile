# The service: `docker build --tag spade_index .`, and `--build-arg DEVICE=gpu` for NVIDIA's GPUs. docs/deploy.md says how
# to run it.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS python
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*

FROM python AS build
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates python3-venv
RUN python3 -m venv /opt/spade_index
ENV PATH=/opt/spade_index/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
COPY requirements/lock.txt requirements/lock.txt
RUN pip install --constraint requirements/lock.txt pip setuptools

# The requirements without the package, so that a change of the code changes none of their layers.
FROM build AS requirements
ARG DEVICE=cpu
# PyTorch without CUDA, which takes five gigabytes; pip prefers these builds for their local version, +cpu.
ARG CPU_INDEX=https://download.pytorch.org/whl/cpu
COPY setup.py pyproject.toml ./
RUN touch README.md \
    && if [ "$DEVICE" = cpu ] && [ -n "$CPU_INDEX" ]; then set -- --extra-index-url "$CPU_INDEX"; fi \
    && pip install "$@" --constraint requirements/lock.txt --no-build-isolation ".[$DEVICE,cloud,heic,mqtt,serve]" \
    && pip uninstall --yes spade_index

FROM build AS package
RUN apt-get install --yes --no-install-recommends g++
COPY . .
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheel .

FROM python
RUN useradd --uid 10001 --home-dir /var/lib/spade_index --create-home --shell /usr/sbin/nologin spade \
    && install --directory --owner spade --group spade /galleries
COPY --from=requirements /opt/spade_index /opt/spade_index
RUN --mount=type=bind,from=package,source=/wheel,target=/wheel \
    /opt/spade_index/bin/pip install --no-cache-dir --no-deps --no-index /wheel/*.whl
# Weights, compiled kernels, and images while they are received: on a volume, for /tmp may be in memory.
ENV PATH=/opt/spade_index/bin:$PATH HOME=/var/lib/spade_index TMPDIR=/var/lib/spade_index
USER 10001
WORKDIR /galleries
VOLUME /galleries /var/lib/spade_index
EXPOSE 8765
HEALTHCHECK --interval=30s --timeout=10s --start-period=2m \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8765/v2/health/ready', timeout=5)"]
ENTRYPOINT ["spade-index"]
CMD ["serve", "/galleries", "--host", "0.0.0.0", "--api-keys", "/run/secrets/keys"]
