# Build. The image brings Rust, a C compiler and the C library's headers, which is all that Herald needs.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
# The authorities are wanted as they are today, so their package is not pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY Cargo.toml Cargo.lock build.rs ./
COPY migrations migrations
COPY src src
COPY script/release script/sbom script/image-root script/
# The caches survive between builds on one machine; what goes into the image is copied out because a cache is no layer.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    script/release \
    && script/sbom /sbom.cdx.json \
    && script/image-root target/release/herald /sbom.cdx.json /image

# Run. The binary, the libraries that it is linked with and the certificate authorities: no shell, no package manager.
FROM scratch
COPY --from=build /image /
ENV PATH=/usr/local/bin
USER 10001:10001
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["herald", "health"]
ENTRYPOINT ["herald"]
CMD ["serve"]
