# uktls: build, install and check. `make help` lists the targets.

CARGO    ?= cargo
CC       ?= cc
PREFIX   ?= /usr/local
LIBDIR   ?= $(PREFIX)/lib
BINDIR   ?= $(PREFIX)/bin
INCDIR   ?= $(PREFIX)/include
MANDIR   ?= $(PREFIX)/share/man
DATADIR  ?= $(PREFIX)/share
DOCDIR   ?= $(PREFIX)/share/doc/uktls
DESTDIR  ?=

VERSION  := $(shell sed -n 's/^version = "\(.*\)"/\1/p;T;q' Cargo.toml)
# Changes only when a symbol goes or a layout changes; see CONTRIBUTING.md.
SONAME   := libuktls.so.0
SHARED   := libuktls.so.$(VERSION)

BUILD    := build
STAGE    := $(CURDIR)/$(BUILD)/stage
TARGET   := $(or $(CARGO_TARGET_DIR),target)
ARCHIVE  := $(TARGET)/release/libuktls.a
# What `rustc --print native-static-libs` names, less libgcc and libc, which every C compiler adds.
LIBS_PRIVATE := -lutil -lrt -lpthread -lm -ldl
# Panics are unwound by code of the library's own: an image with the C library alone has no libgcc_s.so.1. The preload
# library has frames that others unwind, too (preload/c/unwind.c).
UNWINDER := -static-libgcc
UNWINDERS := $(UNWINDER) -Wl,--wrap=_Unwind_Resume -Wl,--wrap=__gcc_personality_v0

MAN1     := $(wildcard docs/man/*.1)
MAN3     := $(wildcard docs/man/*.3)
MAN7     := $(wildcard docs/man/*.7)
# The others are one .so line, which is resolved only where the pages are installed.
MANUALS  := $(shell grep -l '^\.Dd' docs/man/*)
EXAMPLES := $(wildcard examples-c/*.[ch])
SCRIPTS  := $(wildcard scripts/*.sh c-tests/*.sh c-tests/*/*.sh tests/*.sh tests/interop/*.sh tests/selftest/*.sh tests/programs/*.sh tests/referee/*.sh tests/referee/*/*.sh tests/arm64/*.sh) .ci/run

# In a test of the staged library, PREFIX says where it is and pkg-config finds it.
STAGED   := PREFIX=$(STAGE) PKG_CONFIG_PATH=$(STAGE)/lib/pkgconfig LD_LIBRARY_PATH=$(STAGE)/lib

.PHONY: all build help stage install uninstall demo test bench bench-preload bench-programs header lint clean deps FORCE \
	test-rust test-loom test-header test-symbols test-link test-install test-c test-shortage test-shortage-all test-valgrind \
	bench-accelerator bench-many test-accelerator test-preload test-interop test-selftest test-programs test-unchanged test-referee test-walks test-arm64 test-campaign test-campaign-short test-stress test-conformance conformance miri asan tsan \
	fuzz fuzz-corpus
.DELETE_ON_ERROR:

all: build

help:
	@echo 'make [build]    shared and static library, into $(BUILD)/lib'
	@echo 'make install    [PREFIX=/usr/local] [DESTDIR=]: what `make` has built'
	@echo 'make uninstall  [PREFIX=/usr/local] [DESTDIR=]'
	@echo 'make stage      install into $(BUILD)/stage, for the tests and examples'
	@echo 'make demo       from nothing to a file sent over TLS'
	@echo 'make test       every test; installs what the tests need'
	@echo 'make test-shortage-all  with no memory left, at each of 2000 places; an hour'
	@echo 'make test-programs  nginx, PostgreSQL and others over the preload library; installs them'
	@echo 'make test-referee  against the kernel in an emulated machine; fetches a kernel'
	@echo 'make test-walks    the same with random calls'
	@echo 'make test-arm64  C tests on arm64 with pages of 16 KiB, in an emulated machine; fetches a kernel'
	@echo 'make test-campaign  every way by which bytes can reach a TLS socket, and half an hour of stress; three quarters of an hour'
	@echo 'make lint       formatting, clippy, rustdoc, man pages, shell scripts'
	@echo 'make bench      [ARGS=...]: benchmarks'
	@echo 'make bench-accelerator  throughput over an accelerator, by records in flight'
	@echo 'make bench-many  thousands of connections that send in turn'
	@echo 'make bench-preload  what the preload library costs programs without TLS'
	@echo 'make bench-programs  nginx and python under uktls run beside themselves; installs them'
	@echo 'make test-unchanged  git, tar and tests of Python with and without the preload library'
	@echo 'make conformance  run the tests and write docs/conformance.md from what they say'
	@echo 'make header     refresh include/uktls.h from src/capi'
	@echo 'make miri, asan, tsan   the same Rust tests under a checker (nightly Rust)'
	@echo 'make fuzz       [FUZZ_SECONDS=600]: each fuzz target for so long (nightly Rust)'
	@echo 'make clean'

# --- build -----------------------------------------------------------------------------------

build: $(BUILD)/bin/uktls $(BUILD)/lib/libuktls_preload.so $(BUILD)/lib/$(SHARED) $(BUILD)/lib/libuktls.a $(BUILD)/lib/pkgconfig/uktls.pc

$(ARCHIVE): FORCE
	$(CARGO) rustc --release --lib --crate-type staticlib

$(BUILD)/lib/libuktls.a: $(ARCHIVE)
	@mkdir -p $(@D)
	cp $< $@

$(BUILD)/uktls.map: abi/uktls.symbols
	@mkdir -p $(@D)
	@{ echo 'UKTLS_0 {'; echo '  global:'; sed 's/@@UKTLS_0$$/;/; s/^/    /' $<; \
	   echo '  local: *;'; echo '};'; } > $@

# Linked by cc and not by rustc, whose own version script would win over ours.
$(BUILD)/lib/$(SHARED): $(BUILD)/lib/libuktls.a $(BUILD)/uktls.map
	$(CC) -shared $(UNWINDER) -o $@ $(LDFLAGS) -Wl,-soname,$(SONAME) -Wl,--version-script=$(BUILD)/uktls.map \
	  -Wl,-z,nodelete -Wl,-z,relro -Wl,-z,now -Wl,-z,defs -Wl,--gc-sections \
	  -Wl,--whole-archive $< -Wl,--no-whole-archive \
	  -Wl,--as-needed $$(pkg-config --libs libcrypto) $(LIBS_PRIVATE)
	@ln -sf $(SHARED) $(@D)/$(SONAME)
	@ln -sf $(SONAME) $(@D)/libuktls.so

# The preload library is in every process of a system: it needs the C library and nothing else. It calls its own functions by
# the names that it exports, whatever else has them, and system calls by their instruction (preload/c/syscall.S).
PRELOAD_ARCHIVE := $(TARGET)/release/libuktls_preload.a
$(PRELOAD_ARCHIVE): FORCE
	$(CARGO) build --release -p uktls-preload

$(BUILD)/preload.map: abi/preload.symbols
	@mkdir -p $(@D)
	@{ echo '{'; echo '  global:'; sed -n 's/^[a-z_].*/    &;/p' $<; echo '  local: *;'; echo '};'; } > $@

$(BUILD)/lib/libuktls_preload.so: $(PRELOAD_ARCHIVE) $(BUILD)/preload.map
	@mkdir -p $(@D)
	$(CC) -shared $(UNWINDERS) -o $@ $(LDFLAGS) -Wl,-soname,libuktls_preload.so -Wl,--version-script=$(BUILD)/preload.map \
	  -Wl,-Bsymbolic-functions -Wl,--wrap=syscall \
	  -Wl,-z,nodelete -Wl,-z,relro -Wl,-z,now -Wl,-z,defs -Wl,--gc-sections \
	  -Wl,--whole-archive $< -Wl,--no-whole-archive -Wl,--as-needed $(LIBS_PRIVATE)

# Knows where it is going to be installed, to find the preload library there.
COMMAND := $(TARGET)/release/uktls
$(COMMAND): FORCE
	UKTLS_LIBDIR='$(LIBDIR)' $(CARGO) build --release -p uktls-cli

$(BUILD)/bin/uktls: $(COMMAND)
	@mkdir -p $(@D)
	cp $< $@

# $(call pc,PREFIX,LIBDIR,INCDIR)
pc = sed -e 's|@PREFIX@|$(1)|' -e 's|@VERSION@|$(VERSION)|' -e 's|@LIBS_PRIVATE@|$(LIBS_PRIVATE)|' \
	-e 's|@LIBDIR@|$(patsubst $(1)/%,$${exec_prefix}/%,$(2))|' \
	-e 's|@INCDIR@|$(patsubst $(1)/%,$${prefix}/%,$(3))|' pkgconfig/uktls.pc.in

$(BUILD)/lib/pkgconfig/uktls.pc: pkgconfig/uktls.pc.in Cargo.toml Makefile
	@mkdir -p $(@D)
	@$(call pc,$(CURDIR)/$(BUILD),$(CURDIR)/$(BUILD)/lib,$(CURDIR)/include) > $@

# --- install ---------------------------------------------------------------------------------

# For bash, zsh and fish, in this order.
COMPLETIONS := bash-completion/completions/uktls zsh/site-functions/_uktls fish/vendor_completions.d/uktls.fish

# Does not build, so that `sudo make install` runs no compiler as root.
install:
	@test -f $(BUILD)/lib/$(SHARED) || { echo 'nothing to install: run `make` first' >&2; exit 1; }
	@echo 'installing into $(DESTDIR)$(PREFIX)'
	@install -d '$(DESTDIR)$(LIBDIR)/pkgconfig' '$(DESTDIR)$(INCDIR)' '$(DESTDIR)$(MANDIR)/man3' \
	  '$(DESTDIR)$(MANDIR)/man7' '$(DESTDIR)$(DOCDIR)/examples'
	@install -m 755 $(BUILD)/lib/$(SHARED) '$(DESTDIR)$(LIBDIR)/'
	@ln -sf $(SHARED) '$(DESTDIR)$(LIBDIR)/$(SONAME)'
	@ln -sf $(SONAME) '$(DESTDIR)$(LIBDIR)/libuktls.so'
	@install -m 755 $(BUILD)/lib/libuktls_preload.so '$(DESTDIR)$(LIBDIR)/'
	@install -d '$(DESTDIR)$(BINDIR)' '$(DESTDIR)$(MANDIR)/man1' $(patsubst %,'$(DESTDIR)$(DATADIR)/%',$(dir $(COMPLETIONS)))
	@install -m 755 $(BUILD)/bin/uktls '$(DESTDIR)$(BINDIR)/'
	@install -m 644 $(MAN1) '$(DESTDIR)$(MANDIR)/man1/'
	@$(BUILD)/bin/uktls completions bash > '$(DESTDIR)$(DATADIR)/$(word 1,$(COMPLETIONS))'
	@$(BUILD)/bin/uktls completions zsh > '$(DESTDIR)$(DATADIR)/$(word 2,$(COMPLETIONS))'
	@$(BUILD)/bin/uktls completions fish > '$(DESTDIR)$(DATADIR)/$(word 3,$(COMPLETIONS))'
	@chmod 644 $(patsubst %,'$(DESTDIR)$(DATADIR)/%',$(COMPLETIONS))
	@install -m 644 $(BUILD)/lib/libuktls.a '$(DESTDIR)$(LIBDIR)/'
	@install -m 644 include/uktls.h '$(DESTDIR)$(INCDIR)/'
	@$(call pc,$(PREFIX),$(LIBDIR),$(INCDIR)) > '$(DESTDIR)$(LIBDIR)/pkgconfig/uktls.pc'
	@chmod 644 '$(DESTDIR)$(LIBDIR)/pkgconfig/uktls.pc'
	@install -m 644 $(MAN3) '$(DESTDIR)$(MANDIR)/man3/'
	@install -m 644 $(MAN7) '$(DESTDIR)$(MANDIR)/man7/'
	@install -m 644 $(EXAMPLES) '$(DESTDIR)$(DOCDIR)/examples/'

uninstall:
	@echo 'removing from $(DESTDIR)$(PREFIX)'
	@rm -f $(patsubst %,'$(DESTDIR)$(LIBDIR)/%',$(SHARED) $(SONAME) libuktls.so libuktls.a libuktls_preload.so pkgconfig/uktls.pc) \
	  '$(DESTDIR)$(INCDIR)/uktls.h' '$(DESTDIR)$(BINDIR)/uktls' $(patsubst %,'$(DESTDIR)$(DATADIR)/%',$(COMPLETIONS)) \
	  $(patsubst docs/man/%,'$(DESTDIR)$(MANDIR)/man1/%',$(MAN1)) \
	  $(patsubst docs/man/%,'$(DESTDIR)$(MANDIR)/man3/%',$(MAN3)) \
	  $(patsubst docs/man/%,'$(DESTDIR)$(MANDIR)/man7/%',$(MAN7))
	@rm -rf '$(DESTDIR)$(DOCDIR)'

stage: build
	@rm -rf $(STAGE)
	@$(MAKE) --no-print-directory install PREFIX=$(STAGE) LIBDIR=$(STAGE)/lib \
	  INCDIR=$(STAGE)/include BINDIR=$(STAGE)/bin DATADIR=$(STAGE)/share MANDIR=$(STAGE)/share/man DOCDIR=$(STAGE)/share/doc/uktls DESTDIR=

# --- use -------------------------------------------------------------------------------------

demo:
	scripts/install-deps.sh demo
	@$(MAKE) --no-print-directory stage
	$(STAGED) scripts/demo.sh

bench:
	scripts/install-deps.sh bench
	$(CARGO) run --release -p uktls-bench --features all-peers -- $(ARGS)

# Throughput over an accelerator, by records in flight.
bench-accelerator:
	scripts/install-deps.sh bench
	@$(MAKE) --no-print-directory -C c-tests/accelerator
	$(CARGO) run --release -p uktls-bench -- accelerator $(BUILD)/accelerator/uktls-accelerator.so $(ARGS)

# Thousands of connections that send in turn.
bench-many:
	scripts/install-deps.sh bench
	$(CARGO) run --release -p uktls-bench --features all-peers -- many $(ARGS)

# What the preload library costs where there is no TLS.
bench-preload: stage
	@$(CC) -O2 -Wall -Wextra -o $(BUILD)/calls bench/preload/calls.c
	bench/preload/run.py $(BUILD)/calls $(STAGE)/lib/libuktls_preload.so

# Programs under it, beside themselves without.
bench-programs:
	scripts/install-deps.sh bench-programs
	@$(MAKE) --no-print-directory stage
	bench/preload/programs.py $(STAGE)/bin/uktls --svg docs/programs.svg $(ARGS)

header:
	UKTLS_BLESS=1 $(CARGO) test -q --test header

# --- check -----------------------------------------------------------------------------------

deps:
	scripts/install-deps.sh test

# One after the other, whatever -j says: the tests time things, and the output stays readable.
test: deps
	@$(MAKE) --no-print-directory test-conformance
	@$(MAKE) --no-print-directory test-rust
	@$(MAKE) --no-print-directory test-loom
	@$(MAKE) --no-print-directory stage
	@$(MAKE) --no-print-directory test-header
	@$(MAKE) --no-print-directory test-symbols
	@$(MAKE) --no-print-directory test-link
	@$(MAKE) --no-print-directory test-install
	@$(MAKE) --no-print-directory test-c
	@$(MAKE) --no-print-directory test-shortage
	@$(MAKE) --no-print-directory test-accelerator
	@$(MAKE) --no-print-directory test-valgrind
	@$(MAKE) --no-print-directory test-preload
	@$(MAKE) --no-print-directory test-campaign-short
	@$(MAKE) --no-print-directory test-stress STRESS_SECONDS=20
	@$(MAKE) --no-print-directory test-interop
	@$(MAKE) --no-print-directory test-selftest
	$(STAGED) tests/programs/run.sh uktls nginx accelerator openssl python rustls
	@echo 'make test: all passed'

# The page against the tests that there are; `make conformance` runs them and writes the page.
test-conformance:
	scripts/conformance.py check

conformance: deps
	@mkdir -p $(BUILD)
	@$(MAKE) --no-print-directory stage
	-@$(MAKE) --no-print-directory -k test-rust test-loom test-c >$(BUILD)/conformance.log 2>&1
	scripts/conformance.py write $(BUILD)/conformance.log

test-rust:
	$(CARGO) test --workspace --no-fail-fast
	$(CARGO) test --features fault-injection --test faults --test killed
	@$(MAKE) --no-print-directory -C c-tests/accelerator
	UKTLS_ENGINE=openssl:$(BUILD)/accelerator/uktls-accelerator.so UKTLS_ENGINE_FALLBACK=error \
		$(CARGO) test --features fault-injection --test faults -- --ignored

# A filter that matches nothing would pass: the models have to be there.
LOOM := LOOM_MAX_PREEMPTIONS=$${LOOM_MAX_PREEMPTIONS:-2} RUSTFLAGS='--cfg loom' \
	CARGO_TARGET_DIR=$(TARGET)/loom $(CARGO) test --release --lib loom
test-loom:
	$(LOOM)
	@$(LOOM) -q -- --list | awk '/: test$$/ { n++ } END { exit !n }' || { echo 'test-loom: no loom model found' >&2; exit 1; }

# The targets below want `make stage` first; `make test` sees to it.
test-header:
	$(STAGED) c-tests/header/check.sh

test-symbols:
	$(STAGED) SONAME=$(SONAME) c-tests/symbols.sh

test-link:
	$(STAGED) UNWINDER='$(UNWINDER)' UNWINDERS='$(UNWINDERS)' scripts/test-link.sh

test-install:
	scripts/test-install.sh

test-c:
	$(STAGED) $(MAKE) --no-print-directory -C c-tests check

# No memory left: for a few of the places where it may run out, or (an hour) for the first 2000 and all C tests.
test-shortage:
	@$(STAGED) $(MAKE) --no-print-directory -C c-tests all
	@$(STAGED) $(MAKE) --no-print-directory -C c-tests/shortage all
	c-tests/shortage/run.sh $(STAGE) $(CURDIR)/$(BUILD)/c-tests 1 121 40 'send recv memory rekey fork' 7

test-shortage-all:
	@$(STAGED) $(MAKE) --no-print-directory -C c-tests all
	@$(STAGED) $(MAKE) --no-print-directory -C c-tests/shortage all
	c-tests/shortage/run.sh $(STAGE) $(CURDIR)/$(BUILD)/c-tests 1 2000 1 all 2 3 7 50 1000

# The C tests over an accelerator that is slow, out of order, full, failing, gone.
test-accelerator:
	@$(MAKE) --no-print-directory -C c-tests/accelerator
	@$(STAGED) $(MAKE) --no-print-directory -C c-tests all
	$(STAGED) c-tests/accelerator/run.sh $(BUILD)/accelerator $(BUILD)/c-tests

test-valgrind:
	$(STAGED) $(MAKE) --no-print-directory -C c-tests valgrind

# Against the staged preload library; its programs call the C library only.
test-preload:
	c-tests/preload/symbols.sh $(STAGE)/lib/libuktls_preload.so
	tests/exports/check.py $(STAGE)/lib/libuktls_preload.so
	@$(MAKE) --no-print-directory -C c-tests/preload check PRELOAD=$(STAGE)/lib/libuktls_preload.so

test-interop:
	$(STAGED) tests/interop/run.sh

# The kernel's own TLS selftest, from Debian's source package, over the preload library.
test-selftest:
	$(STAGED) tests/selftest/run.sh

# Real programs over the preload library: those of `make test`, and those that want more packages.
test-programs:
	scripts/install-deps.sh programs
	@$(MAKE) --no-print-directory stage
	$(STAGED) tests/programs/run.sh uktls nginx accelerator openssl python rustls redis servers clients declined

# What has nothing to do with TLS; a quarter of an hour, most of it Python's test_asyncio.
test-unchanged:
	scripts/install-deps.sh unchanged
	@$(MAKE) --no-print-directory stage
	$(STAGED) tests/programs/run.sh unchanged

# The kernel's own kTLS, in an emulated machine, as the judge. By itself: it wants QEMU and a kernel
# from the distribution, and two minutes.
test-referee:
	scripts/install-deps.sh referee
	@$(MAKE) --no-print-directory stage
	$(STAGED) tests/referee/run.sh

# Random calls over both. WALKS="FIRST COUNT": the seeds; a hundred take a quarter of an hour.
test-walks:
	scripts/install-deps.sh referee
	@$(MAKE) --no-print-directory stage
	$(STAGED) tests/referee/walk.sh

# C tests of both libraries on arm64 with pages of 16 KiB. By itself: it fetches a kernel, builds everything anew for arm64, and
# emulates a machine for some ten minutes.
test-arm64:
	scripts/install-deps.sh arm64
	tests/arm64/run.sh

# Every way by which bytes can reach a TLS socket, and what of them is on the wire, a quarter of an hour on two
# cores; and half an hour of stress. ARGS='--seed N' repeats a run, ARGS="--only 'write dup* before * *'" takes some of the cells.
test-campaign:
	scripts/install-deps.sh test
	@$(MAKE) --no-print-directory stage
	@$(MAKE) --no-print-directory -C tests/campaign check LIBDIR=$(STAGE)/lib \
	  ARGS="--table $(CURDIR)/$(BUILD)/campaign/cells.tsv $(ARGS)"
	@$(MAKE) --no-print-directory test-stress STRESS_SECONDS=1800 ARGS=

# A sample of the cells, by a seed that is printed. Wants `make stage` first; `make test` sees to it.
CAMPAIGN_CELLS ?= 3000
test-campaign-short:
	@$(MAKE) --no-print-directory -C tests/campaign check LIBDIR=$(STAGE)/lib \
	  ARGS="--table $(CURDIR)/$(BUILD)/campaign/sample.tsv --cells $(CAMPAIGN_CELLS) $(ARGS)"

# Sockets opened, used and closed as fast as it goes, beside forks and ends of processes. ARGS='--seed N' repeats the draws of a
# run. Wants `make stage` first; `make test` sees to it.
STRESS_SECONDS ?= 20
test-stress:
	@$(MAKE) --no-print-directory -C tests/stress check LIBDIR=$(STAGE)/lib ARGS="--seconds $(STRESS_SECONDS) $(ARGS)"

lint: deps
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps
	mandoc -T lint -W warning $(MANUALS)
	for script in $(SCRIPTS); do bash -n $$script || exit 1; done

NIGHTLY := $(CARGO) +nightly
HOST    := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')

# Miri runs no foreign code: the rooms that are Rust only, without OpenSSL and AWS-LC; the property
# test would take hours.
miri:
	rustup component add --toolchain nightly miri rust-src
	CARGO_TARGET_DIR=$(TARGET)/miri $(NIGHTLY) miri test --no-default-features --lib -- \
	  record:: crypto_info:: rx:: --skip what_was_sent

asan:
	RUSTFLAGS='-Z sanitizer=address' CARGO_TARGET_DIR=$(TARGET)/asan \
	  $(NIGHTLY) test --target $(HOST) --lib --tests

# The standard library is built too, or its own synchronisation would be reported as races.
tsan:
	rustup component add --toolchain nightly rust-src
	RUSTFLAGS='-Z sanitizer=thread' CARGO_TARGET_DIR=$(TARGET)/tsan \
	  $(NIGHTLY) test -Z build-std --target $(HOST) --lib --tests

FUZZ_SECONDS ?= 600
FUZZ_TARGETS := record rx tx

# New inputs go to a folder that git ignores; `make fuzz-corpus` keeps the smallest set of them. What
# has failed is in fuzz/artifacts, and belongs into fuzz/corpus once it is fixed.
fuzz:
	command -v cargo-fuzz >/dev/null || $(CARGO) install cargo-fuzz --locked
	@for target in $(FUZZ_TARGETS); do \
	  mkdir -p fuzz/found/$$target; \
	  $(NIGHTLY) fuzz run --fuzz-dir fuzz -O $$target fuzz/found/$$target fuzz/corpus/$$target -- \
	    -max_total_time=$(FUZZ_SECONDS) -max_len=20000 -timeout=60 -rss_limit_mb=4096 \
	    -print_final_stats=1 || exit 1; \
	done

fuzz-corpus:
	@for target in $(FUZZ_TARGETS); do \
	  $(NIGHTLY) fuzz run --fuzz-dir fuzz -O $$target -- -merge=1 -max_len=$(FUZZ_LEN) \
	    fuzz/corpus/$$target fuzz/found/$$target || exit 1; \
	done
# Larger inputs are not worth keeping.
FUZZ_LEN ?= 300

clean:
	$(CARGO) clean
	rm -rf $(BUILD)
