# `make test` is the whole gate; `make check` is the quick look between edits.

FUZZ_SECONDS ?= 60
SEEDS ?= 100000
FUZZ_TARGETS := config proxy_header client_hello postgres mysql redis http1 http1_answer http2
MUTANT_SEEDS ?= 100

.PHONY: test check tools fmt clippy doc bench bench-failover bench-house fuzz simulate mutants

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

# CPU per operation beside HAProxy and nginx, at layer 4 and layer 7: about half an hour.
bench: tools
	cargo bench --locked --bench l4 --bench l7

# What failovers cost clients, beside HAProxy and PgBouncer: 40 minutes, or 6 with BENCH_RUNS=3.
bench-failover: tools
	cargo bench --locked --bench failover

# Checks, reloads, latency under a storm and scrapes, failovers under loss: about ten minutes.
bench-house: tools
	cargo bench --locked --bench house

# Seeded worlds around the control plane, more of them than `make test` runs. Optimized: a
# few times faster. SEED=17 runs one and prints what it did.
simulate:
	EVERGATE_SEEDS=$(SEEDS) $(if $(SEED),EVERGATE_SEED=$(SEED)) \
		CARGO_PROFILE_TEST_OPT_LEVEL=2 \
		cargo test --locked --lib simulation:: -- --nocapture

# Discoveries stay in fuzz/target; add an input to fuzz/corpus by hand when it is worth keeping.
fuzz:
	@command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked
	@set -e; for target in $(FUZZ_TARGETS); do \
		mkdir -p fuzz/target/corpus/$$target fuzz/corpus/$$target; \
		cargo +nightly fuzz run $$target fuzz/target/corpus/$$target fuzz/corpus/$$target \
			-- -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048; \
	done

# Which rules no unit test holds; .cargo/mutants.toml says where it looks. All of it takes days
# on a desk: SHARD=3/40 is every 40th mutant from the fourth on, FILE=src/routing/room.rs one file
# (and the few struct fields, which cargo-mutants does not filter by name).
# Few seeds and cases: they find a wrong rule within the first hundred or not at all.
mutants:
	@command -v cargo-mutants >/dev/null || cargo install cargo-mutants --locked
	EVERGATE_SEEDS=$(MUTANT_SEEDS) PROPTEST_CASES=48 cargo mutants --output target \
		$(if $(SHARD),--shard $(SHARD) --sharding round-robin) $(if $(FILE),--re '$(FILE)')
