# `make test` is the whole gate; `make check` is the quick look between edits.

FUZZ_SECONDS ?= 60
FUZZ_TARGETS := config proxy_header client_hello

.PHONY: test check tools fmt clippy doc bench fuzz

test: tools fmt clippy
	cargo test --locked --no-fail-fast
	$(MAKE) --no-print-directory doc

check: fmt clippy
	cargo test --locked --lib

# PostgreSQL, Redis, nginx, HAProxy … : what the tests put around the proxy.
tools:
	@tests/install-tools.sh

fmt:
	cargo fmt --check

clippy:
	cargo clippy --locked --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

bench: tools
	cargo bench --locked --bench l4

# Discoveries stay in fuzz/target; add an input to fuzz/corpus by hand when it is worth keeping.
fuzz:
	@command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked
	@set -e; for target in $(FUZZ_TARGETS); do \
		mkdir -p fuzz/target/corpus/$$target fuzz/corpus/$$target; \
		cargo +nightly fuzz run $$target fuzz/target/corpus/$$target fuzz/corpus/$$target \
			-- -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048; \
	done
