# Debian's Mosquitto: what the tests run, with Debian's security updates at every build.
FROM debian:12.11-slim

# A fixed user id, for the certificates outside are read by it. The package keeps a user that is there.
# Debian keeps only the newest build of a package, so its version is not pinned beyond the release.
# hadolint ignore=DL3008
RUN groupadd --system --gid 1883 mosquitto \
 && useradd --system --uid 1883 --gid 1883 --home-dir /var/lib/mosquitto --shell /usr/sbin/nologin mosquitto \
 && apt-get update \
 && apt-get install --yes --no-install-recommends mosquitto \
 && rm -rf /var/lib/apt/lists/* \
 && install --directory --owner=mosquitto --group=mosquitto --mode=0700 /var/lib/mosquitto
USER 1883:1883
VOLUME /var/lib/mosquitto
EXPOSE 8883
ENTRYPOINT ["/usr/sbin/mosquitto", "-c", "/etc/mosquitto/mosquitto.conf"]
