# Every node of a cluster runs this image, for Ray's launcher (cluster.yaml) and for KubeRay (docs/kuberay) alike:
#   docker build --tag REGISTRY/persam-ray:0.1.0 .
# Ray's own image has what both need: `ray` on PATH, rsync and ssh for the launcher, wget for KubeRay's probes, and the
# user `ray` (1000). Its CPU variant also serves GPUs: torch's wheels bring CUDA, and the host has the driver.
ARG RAY_VERSION=2.60.0
FROM rayproject/ray:${RAY_VERSION}-py311-cpu

ARG RAY_VERSION
LABEL org.opencontainers.image.title="persam-ray" \
      org.opencontainers.image.description="Label a bucket of photos from one reference photo and mask, on Ray" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/rayproject/ray:${RAY_VERSION}-py311-cpu"

USER 1000
WORKDIR /home/ray/persam-ray

# Dependencies are a layer of their own, so a change of the code does not install them again. Ray's launcher needs a
# boto3 that fits the botocore of aiobotocore, which s3fs brings. Both are named first, and aiobotocore is bounded, so
# that pip resolves them first.
COPY --chown=1000:100 pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
      > /tmp/requirements.txt \
    && pip install --no-cache-dir "ray[default]==${RAY_VERSION}" "aiobotocore<4" boto3 --requirement /tmp/requirements.txt \
    && rm /tmp/requirements.txt

# The image holds the demo's weights only, as part of the package. The driver's node fetches or reads others (--sam).
COPY --chown=1000:100 README.md LICENSE ./
COPY --chown=1000:100 persam_ray ./persam_ray
COPY --chown=1000:100 jobs ./jobs
RUN pip install --no-cache-dir --no-deps .
