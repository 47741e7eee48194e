# medssl in a container: `docker build --build-arg DEVICE=cuda -t medssl .` (DEVICE: cpu or cuda).
# The network is used while it is built, and not when it runs: `docker run --network none ...`.
FROM python:3.12-slim
ARG DEVICE=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /build
COPY . .
# PyPI's PyTorch brings CUDA; the index below has the same version without it.
RUN case "$DEVICE" in \
      cpu) index="--extra-index-url https://download.pytorch.org/whl/cpu" ;; \
      cuda) index="" ;; \
      *) echo "DEVICE is cpu or cuda" >&2; exit 1 ;; \
    esac \
    && pip install $index -c constraints.txt ".[bundle,dicom,dicom-seg]" \
    && pip check \
    && rm -rf /build/*
RUN useradd --create-home --uid 1000 medssl
USER medssl
ENV MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /data
ENTRYPOINT ["medssl"]
CMD ["--help"]
