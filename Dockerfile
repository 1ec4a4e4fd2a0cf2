# See docs/docker.md. The node needs NET_ADMIN and /dev/net/tun, and nothing else of the host.

FROM python:3.13-slim-trixie AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY meshnode ./meshnode
RUN python -m venv /opt/meshnode && /opt/meshnode/bin/pip install --no-cache-dir .

FROM python:3.13-slim-trixie
COPY --from=build /opt/meshnode /opt/meshnode
ENV PATH=/opt/meshnode/bin:/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin PYTHONUNBUFFERED=1
VOLUME /var/lib/meshnode
EXPOSE 4655/udp
# The node is PID 1 and takes SIGTERM itself: it says goodbye to its peers before it ends.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s CMD ["meshnode", "status", "--check", "ready"]
ENTRYPOINT ["meshnode"]
CMD ["join"]
