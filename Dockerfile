# Build. The image brings Rust, a C compiler and the C library's headers, which is all that Herald needs.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock build.rs ./
COPY migrations migrations
COPY src src
# The caches survive between builds on one machine; the binary is copied out because a cache is no layer.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin herald \
    && cp target/release/herald /usr/local/bin/herald

# Run. The binary and the certificate authorities that it checks callbacks' certificates against.
FROM debian:bookworm-slim
# The authorities are wanted as they are today, so their package is not pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 herald \
    && useradd --system --uid 10001 --gid herald --no-create-home --shell /usr/sbin/nologin herald
COPY --from=build /usr/local/bin/herald /usr/local/bin/herald
USER 10001:10001
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["herald", "health"]
ENTRYPOINT ["herald"]
CMD ["serve"]
