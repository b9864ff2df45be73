# syntax=docker/dockerfile:1
# The service, on a CPU:  docker build -t elir-serve .
# Other backends:         --build-arg EXTRAS=serve,openvino (or serve,gpu on an image with CUDA)
FROM python:3.12-slim

ARG EXTRAS=serve,cpu
COPY pyproject.toml README.md LICENSE /src/
COPY elir_deploy /src/elir_deploy
RUN pip install --no-cache-dir "/src[${EXTRAS}]" \
    && useradd --create-home elir

USER elir
EXPOSE 8000
# Other machines reach it: the variable ELIR_TOKEN must be set.
ENTRYPOINT ["elir-serve", "--host", "0.0.0.0"]
CMD ["tiny"]
