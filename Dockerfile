# A server for model files: docker build -t bertonnx . && docker run -p 8080:8080 -v "$PWD:/models:ro" bertonnx model.onnx
#
# For CUDA: docker build --build-arg EXTRA=gpu -t bertonnx:gpu . && docker run --gpus all ... bertonnx:gpu model.onnx
FROM python:3.12-slim-bookworm AS build
ARG EXTRA=cpu
COPY . /source
RUN python -m venv /opt/bertonnx \
 && /opt/bertonnx/bin/pip install --no-cache-dir "/source[${EXTRA},serve]"

FROM python:3.12-slim-bookworm
COPY --from=build /opt/bertonnx /opt/bertonnx
# As nobody in particular: the server reads model files and listens, and needs no more.
RUN useradd --system --no-create-home --uid 10001 bertonnx
USER 10001
WORKDIR /models
ENV PATH=/opt/bertonnx/bin:$PATH BERTONNX_HOST=0.0.0.0
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD \
  ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/ready', timeout=2)"]
# As a list, so that signals reach the server and not a shell.
ENTRYPOINT ["bertonnx", "serve"]
