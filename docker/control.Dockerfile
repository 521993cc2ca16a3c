# Baton's control plane alone: no torch, no Triton, no root.
# Build from the repository's root: docker build -f docker/control.Dockerfile -t baton-control .
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY control/ control/
RUN python -m venv /opt/baton && /opt/baton/bin/pip install --no-cache-dir .

FROM python:3.12-slim
# 1000 is the user of NVIDIA's Triton images: both write to and read from the same repository.
RUN useradd --uid 1000 --create-home baton \
    && install -d -o baton -g baton /models /state
COPY --from=build /opt/baton /opt/baton
ENV PATH=/opt/baton/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    BATON_STATE=/state
USER baton
VOLUME ["/models", "/state"]
EXPOSE 9464
# The slim image has no curl.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9464/healthz', timeout=4)"]
ENTRYPOINT ["ctl"]
CMD ["--config", "/etc/baton.toml", "serve"]
