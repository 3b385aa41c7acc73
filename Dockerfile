# Every node of a cluster runs this image, for Ray's launcher (cluster.yaml) and for KubeRay (docs/kuberay) alike:
#   docker build --tag REGISTRY/persam-ray:0.1.0 .
# Ray's own image has what both need: `ray` on PATH, rsync and ssh for the launcher, wget for KubeRay's probes, and the
# user `ray` (1000). Its CPU variant will do for GPUs too: torch's wheels carry CUDA, the host its driver.
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

# Dependencies make a layer of their own, which a change of the code leaves as it is. Ray's launcher needs boto3: one
# that goes with the botocore of aiobotocore, which s3fs brings; named first and bounded, pip settles that first.
COPY --chown=1000:100 pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
      > /tmp/requirements.txt \
    && pip install --no-cache-dir "ray[default]==${RAY_VERSION}" "aiobotocore<4" boto3 --requirement /tmp/requirements.txt \
    && rm /tmp/requirements.txt

# No weights but the demo's, which are part of the package: --sam fetches or reads others on the driver's node.
COPY --chown=1000:100 README.md LICENSE ./
COPY --chown=1000:100 persam_ray ./persam_ray
COPY --chown=1000:100 jobs ./jobs
RUN pip install --no-cache-dir --no-deps .
