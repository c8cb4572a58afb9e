# Two stages: the first builds a virtual environment, the second runs it as a user without rights and without a shell
# history of the build. The base is Debian 12 with Python 3.11, what the gateway is tested on.
#
#   docker build -t pushgw .
#   docker run -v ./config:/etc/pushgw:ro -v pushgw-data:/var/lib/pushgw -p 7400:7400 -p 8883:8883 -p 9180:9180 pushgw
#
# The configuration must open [http] on tcp://0.0.0.0:9180 for the health check's port to be reachable from outside;
# inside it is asked on loopback.

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/pushgw
COPY requirements.lock pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY vendors vendors
COPY bench bench
# the lock file as constraints: its versions, and only what running needs (no test tools)
RUN /opt/pushgw/bin/pip install --constraint requirements.lock setuptools \
 && /opt/pushgw/bin/pip install --constraint requirements.lock --no-build-isolation . \
 && /opt/pushgw/bin/pip uninstall --yes setuptools

FROM python:3.11-slim-bookworm
RUN groupadd --system --gid 10001 pushgw \
 && useradd --system --uid 10001 --gid pushgw --home-dir /var/lib/pushgw --shell /usr/sbin/nologin pushgw \
 && install --directory --owner pushgw --group pushgw --mode 0750 /var/lib/pushgw
COPY --from=build /opt/pushgw /opt/pushgw
COPY configs/reference.toml /usr/share/pushgw/reference.toml
ENV PATH=/opt/pushgw/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER pushgw
WORKDIR /var/lib/pushgw
VOLUME /var/lib/pushgw
# binary RPC, long link, metrics and health
EXPOSE 7400 8883 9180
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9180/healthz', timeout=2)"]
ENTRYPOINT ["pushgw"]
CMD ["serve", "--config", "/etc/pushgw/pushgw.toml"]
