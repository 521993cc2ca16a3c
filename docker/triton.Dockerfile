# Triton with the packages and the python-based backends that Baton's services need; it starts only with an admin key.
# Build from the repository's root: docker build -f docker/triton.Dockerfile -t baton-triton .
# Name the image by digest; docker/README.md tells how. Its Python has to be 3.11 or newer: 24.11 and later.
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:26.07-py3
FROM ${TRITON_IMAGE}
USER 0

# The extra "engine" of pyproject.toml, each package by its hash. Only wheels: to build a package would fetch others,
# without hashes. They lie before the image's own packages, by a line that Python runs at its start: PYTHONPATH means
# nothing to Triton's stubs (seen on 24.10).
COPY docker/engine.lock /opt/baton/
RUN python3 -m pip install --no-cache-dir --only-binary=:all: --require-hashes \
        --target /opt/baton/packages -r /opt/baton/engine.lock \
    && echo "import sys; sys.path.insert(0, '/opt/baton/packages')" \
        > "$(python3 -c 'import site; print(site.getsitepackages()[0])')/baton.pth"

# The entry point uses these modules of the control plane, and no package.
COPY docker/triton-entrypoint.py /opt/baton/
COPY control/baton/__init__.py control/baton/errors.py control/baton/secret.py /opt/baton/baton/
COPY control/baton/reasons/__init__.py control/baton/reasons/reason.py control/baton/reasons/refusals.py \
     control/baton/reasons/words.py /opt/baton/baton/reasons/
COPY control/baton/local/find.py control/baton/local/argv_secret.py control/baton/local/procfs.py \
     control/baton/local/exec_wrapper.py /opt/baton/baton/local/
COPY python_backend/ /opt/baton/backends/
# Readable, and not to be changed, for the user that runs; whatever the modes in the checkout are.
RUN chmod -R a+rX,go-w /opt/baton/triton-entrypoint.py /opt/baton/baton /opt/baton/backends \
    && mv /opt/baton/backends/* /opt/tritonserver/backends/ \
    && install -d -o 1000 -g 1000 /models

# What caches something writes it to /tmp, the only place that has to be writable.
ENV PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp
USER 1000:1000
# /metrics has no access control: keep its port, 8002, in a private network.
EXPOSE 8000 8001 8002
# The whole server's readiness turns false while any version loads; balancers probe the alias. No proxy is asked.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["curl", "--noproxy", "*", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:8000/v2/health/live"]
# NVIDIA's looks at the driver, and then runs ours. The words of the command are further options of tritonserver.
ENTRYPOINT ["/opt/nvidia/nvidia_entrypoint.sh", "python3", "/opt/baton/triton-entrypoint.py"]
CMD []
