# Baton's control plane alone: no torch, no Triton, no root.
# Build from the repository's root: docker build -f docker/control.Dockerfile -t baton-control .
# Pinned by digest; docker/README.md tells how to choose a newer one.
ARG PYTHON_IMAGE=docker.io/library/python:3.12-slim@sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea
FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
# Only wheels, each with its hash: to build a package would fetch others, without hashes.
COPY docker/control.lock ./
RUN python -m venv /opt/baton \
    && /opt/baton/bin/pip install --no-cache-dir --only-binary=:all: --require-hashes -r control.lock
COPY pyproject.toml README.md LICENSE ./
COPY control/ control/
RUN /opt/baton/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
    && /opt/baton/bin/pip check \
    && /opt/baton/bin/pip uninstall --yes setuptools pip \
    && chmod -R a+rX,go-w /opt/baton

FROM ${PYTHON_IMAGE}
# 1000 is the user of NVIDIA's Triton images: the state is its own, and so is the repository.
RUN useradd --uid 1000 --create-home baton \
    && install -d -o baton -g baton /models \
    && install -d -o baton -g baton -m 700 /state
COPY --from=build /opt/baton /opt/baton
ENV PATH=/opt/baton/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    BATON_STATE=/state
USER 1000:1000
VOLUME ["/models", "/state"]
EXPOSE 9464
# The slim image has no curl. No proxy is asked, whatever the variables say.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:9464/healthz', timeout=4)"]
ENTRYPOINT ["ctl"]
CMD ["--config", "/etc/baton.toml", "serve"]
