# The commands of this repository. What a step needs beyond cargo is installed by .ci/need, on Debian and its like.

SHELL       := /bin/bash
TARGET      := $(or $(CARGO_TARGET_DIR),target)
# nextest runs test binaries side by side; without it the tests are the same, only slower.
RUN_TESTS   := $(shell cargo nextest --version >/dev/null 2>&1 && echo nextest run || echo test --all-targets) --no-fail-fast
INTO        := $(DESTDIR)$(or $(PREFIX),/usr/local)
SAY         := @printf '\n== %s\n'

.DEFAULT_GOAL := help
.PHONY: help build release install test check tidy unit examples demo demo-debug bench clean need need-browser
# The steps of a target come one after another, so that the first that fails is the last that is seen.
.NOTPARALLEL:

help:
	@echo 'make build     the debug binary, $(TARGET)/debug/byname'
	@echo 'make release   the release binary, $(TARGET)/release/byname'
	@echo 'make install   the release binary, its manual pages and completions to $$PREFIX (default /usr/local)'
	@echo 'make demo      a video-on-demand system found by name, and a database woken by psql'
	@echo 'make test      everything that is checked before a change is taken'
	@echo 'make check     only formatting, lints and the rules of the repository'
	@echo 'make unit      only the tests of the crates'
	@echo 'make bench     the measurements, beside the peers'
	@echo 'make clean     forget everything that was built'

need:
	@.ci/need cc git curl dig openssl python3 tclsh8.6 redis-server postgres psql ip nft

build:
	$(SAY) 'building (debug)'
	cargo build --locked --package byname

release:
	$(SAY) 'building (release; a few minutes the first time)'
	cargo build --locked --release --package byname

install: release
	install -D -m 755 $(TARGET)/release/byname $(INTO)/bin/byname
	$(TARGET)/release/byname man $(INTO)/share/man/man1
	install -d $(INTO)/share/bash-completion/completions $(INTO)/share/zsh/site-functions $(INTO)/share/fish/vendor_completions.d
	$(TARGET)/release/byname completions bash >$(INTO)/share/bash-completion/completions/byname
	$(TARGET)/release/byname completions zsh >$(INTO)/share/zsh/site-functions/_byname
	$(TARGET)/release/byname completions fish >$(INTO)/share/fish/vendor_completions.d/byname.fish

# A browser, for the pages where people sign in.
need-browser:
	@.ci/need chromium

test: need need-browser check unit examples demo-debug
	$(SAY) 'all good'

check:
	$(SAY) 'formatting'
	cargo fmt --all --check
	$(SAY) 'the rules of the repository'
	cargo xtask tidy
	$(SAY) 'lints'
	cargo clippy --locked --workspace --all-targets --quiet -- -D warnings

tidy:
	cargo xtask tidy

# The binary comes first: tests start it.
unit: build
	$(SAY) 'tests of the crates'
	@cargo xtask cluster check || echo 'so the tests of hosts (crates/byname/tests/fleet) are left out'
	PATH="$$PATH:$$(.ci/tools $(TARGET)/tools)" cargo $(RUN_TESTS) --locked --workspace </dev/null

examples:
	$(SAY) 'tests of the examples'
	cd examples/bvods && python3 -B -m unittest -q </dev/null
	cd examples/postgres && python3 -B -m unittest -q </dev/null

demo: need release
	python3 -B examples/bvods/demo.py --byname $(TARGET)/release/byname
	python3 -B examples/postgres/demo.py --byname $(TARGET)/release/byname

demo-debug: build
	$(SAY) 'the demos, with the debug binary'
	python3 -B examples/bvods/demo.py --byname $(TARGET)/debug/byname </dev/null
	python3 -B examples/postgres/demo.py --byname $(TARGET)/debug/byname </dev/null

bench:
	@bench/run

clean:
	cargo clean
