# syntax=docker/dockerfile:1
# CPU by default. For NVIDIA GPUs: docker build --build-arg TORCH=cu130 -t camserve:gpu .
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
# "cpu" or a CUDA flavour of PyTorch's own wheel index, such as cu130.
ARG TORCH=cpu
# Where torch and torchvision come from. PyPI's wheels for Linux bring CUDA along, several GB that CPUs have no use for;
# PyTorch's own index has small ones. For a mirror of it, or any other package index, give the whole address.
ARG TORCH_INDEX=https://download.pytorch.org/whl/${TORCH}
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/camserve
ENV PATH=/opt/camserve/bin:$PATH
WORKDIR /src
COPY constraints.txt ./
# torch and torchvision first and from one index: they come as a matching pair, and rarely change.
RUN PIP_INDEX_URL="${TORCH_INDEX}" pip install -c constraints.txt torch torchvision
COPY pyproject.toml README.md LICENSE ./
COPY service ./service
RUN pip install -c constraints.txt '.[otel]'

FROM python:${PYTHON}-slim
COPY --from=build /opt/camserve /opt/camserve
RUN useradd --system --uid 10001 --create-home camserve && mkdir /cache && chown camserve /cache
USER camserve
# On all addresses of the container, and so it does not start without CAMSERVE_KEYS or CAMSERVE_EXPOSE_WITHOUT_KEYS.
WORKDIR /home/camserve
ENV PATH=/opt/camserve/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CAMSERVE_HOST=0.0.0.0 \
    CAMSERVE_CACHE_DIR=/cache
VOLUME /cache
EXPOSE 8000
# Alive, not ready: a container whose model is still loading must not be restarted. No urllib: it would ask HTTP_PROXY.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import http.client as h, os; c = h.HTTPConnection('127.0.0.1', int(os.environ.get('CAMSERVE_PORT', 8000)), timeout=2); c.request('GET', '/livez'); assert c.getresponse().status == 200"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["camserve"]
CMD ["serve"]
