# Triton with the packages and the python-based backends that Baton's services need.
# Build from the repository's root: docker build -f docker/triton.Dockerfile -t baton-triton .
ARG TRITON_TAG=26.07-py3
FROM nvcr.io/nvidia/tritonserver:${TRITON_TAG}

# The same floors as the extra "engine" in pyproject.toml. The image carries no torch. The image's Python is the
# system's own, which refuses pip without this variable; models need the packages exactly there.
RUN PIP_BREAK_SYSTEM_PACKAGES=1 pip install --no-cache-dir \
        "av>=12" \
        "pillow>=10" \
        "safetensors>=0.4" \
        "torch>=2.4" \
        "transformers>=4.57"

COPY python_backend/ /opt/tritonserver/backends/

# Explicit mode: what is loaded is what Baton asks for. Name what a restart has to bring back, as --load-model=<service>
# --load-model=<engine>: a public name that leads to the splitter does not pull in the engine. /metrics has no access control: keep its port in a private net.
# Configurations are complete: completing them would start each version's code twice.
# Readiness is not strict, because the strict one turns false during each load and drain; probe the public name.
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD curl --fail --silent http://127.0.0.1:8000/v2/health/live || exit 1
CMD ["tritonserver", \
     "--model-repository=/models", \
     "--model-control-mode=explicit", \
     "--disable-auto-complete-config", \
     "--strict-readiness=false", \
     "--metrics-config=summary_latencies=true"]
