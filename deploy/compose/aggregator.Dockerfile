# The aggregator in an image of its own, and the command line that makes tokens. The context `programs` is the folder
# that holds both, see compose.yaml.
FROM debian:12.11-slim

# Nothing is installed: the programs need the C library and nothing else.
# hadolint ignore=DL3022
COPY --from=programs --chmod=0755 loadonce-aggregator loadonce /usr/bin/
RUN groupadd --system --gid 64123 loadonce \
 && useradd --system --uid 64123 --gid 64123 --home-dir /var/lib/loadonce-aggregator --shell /usr/sbin/nologin loadonce \
 && install --directory --owner=loadonce --group=loadonce --mode=0700 /var/lib/loadonce-aggregator
USER 64123:64123
VOLUME /var/lib/loadonce-aggregator
EXPOSE 8884 9464

# Is its core at work? A broker that is away does not count against it.
HEALTHCHECK --interval=30s --timeout=12s --start-period=60s \
    CMD ["/bin/bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9464; printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3; read -r -t 10 _ status _ <&3; [ \"$status\" = 200 ]"]

ENTRYPOINT ["/usr/bin/loadonce-aggregator", "--config", "/etc/loadonce/aggregator.toml"]
