# SPDX-License-Identifier: Apache-2.0
# Hearth. `make run` sets everything up and answers; `make test` checks everything. Objects and generated
# code go to $(BUILD); sources are found by folder, so a new file needs no line here.
#   make [build]  hearth, hearthd, libhearth      make run      from nothing to an answer
#   make test | test-long | test-peers | bench    make install PREFIX=/usr/local
#   make asan | ubsan | tsan | asan-box | tsan-box | fuzz | tidy | format | clean
#   make CROSS=aarch64 build | test     the same for another machine, into build-aarch64, with the cross compiler that
#                                       `tools/setup cross` installs; the tests run under qemu-user
BUILD  ?= build$(if $(CROSS),-$(CROSS))
PREFIX ?= /usr/local
CC     ?= cc
V      ?= 0
ifneq ($(CROSS),)
TARGET := $(CROSS)-linux-gnu
endif
ifeq ($(origin CC),default)
CC := $(if $(TARGET),$(TARGET)-)gcc
endif
ifeq ($(origin AR),default)
AR := $(if $(TARGET),$(TARGET)-)ar
endif
VERSION := 0.1.0
SOVERSION := 0

OPT      ?= -O3 -g
SAN      ?=
WARN     := -Wall -Wextra -Wvla -Werror
# -ffp-contract=off: the numeric contracts spell every fma out; a compiler must not add its own.
CFLAGS_ALL = -std=c11 -D_GNU_SOURCE -fPIC -pthread $(OPT) $(WARN) -ffp-contract=off -fno-math-errno \
	-fvisibility=hidden -DHEARTH_VERSION='"$(VERSION)"' -I. -I$(BUILD)/gen $(SAN) $(CFLAGS)
LDFLAGS_ALL = -pthread $(SAN) $(LDFLAGS)
ARCH := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine 2>/dev/null)))

# ---- outside libraries (tools/setup installs them); the TLS pair is built statically into HEARTH_DEPS
# (without it the distribution's own, older pair is linked; hearthd then answers on loopback only)
ifeq ($(origin HEARTH_DEPS),undefined)
HEARTH_DEPS := $(shell tools/setup --print-deps $(CROSS))
endif
PKG := $(if $(TARGET),PKG_CONFIG_LIBDIR=/usr/lib/$(TARGET)/pkgconfig:/usr/share/pkgconfig )pkg-config
ENGINE_PKGS   := libutf8proc jansson
FIRMWARE_PKGS := libprotobuf-c sqlite3 jansson libqrencode libargon2
TOOLS_PKGS    := libprotobuf-c jansson libqrencode libedit
ENGINE_LIBS    = $(shell $(PKG) --libs $(ENGINE_PKGS)) -lm -ldl
SYSTEMD_LIBS  := $(shell $(PKG) --exists libsystemd 2>/dev/null && $(PKG) --libs libsystemd)
SYSTEMD_FLAGS := $(if $(SYSTEMD_LIBS),-DHEARTH_HAVE_SYSTEMD)
ifneq ($(HEARTH_DEPS),)
LWS_LIBS  := $(patsubst %,$(HEARTH_DEPS)/lib/lib%.a,websockets mbedtls mbedx509 mbedcrypto)
LWS_FLAGS := -isystem $(HEARTH_DEPS)/include
else
LWS_LIBS   = $(shell $(PKG) --libs libwebsockets) -lmbedtls -lmbedx509 -lmbedcrypto
LWS_FLAGS  = -include firmware/old_tls.h
endif
# --wrap: firmware/reserve.h
WRAP = -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc
FIRMWARE_LIBS = $(WRAP) $(shell $(PKG) --libs $(FIRMWARE_PKGS)) $(SYSTEMD_LIBS) $(LWS_LIBS)
TOOLS_LIBS    = $(shell $(PKG) --libs $(TOOLS_PKGS)) $(LWS_LIBS)

# ---- sources; engine/cpu/*_ISA.c of another architecture are left out
ISAS_x86_64  := avx2 avx512vnni avx512bf16 amx
ISAS_aarch64 := neon dotprod i8mm
ISAS_FOREIGN := $(filter-out $(ISAS_$(ARCH)),$(ISAS_x86_64) $(ISAS_aarch64))
ENGINE_SRC   := $(filter-out $(ISAS_FOREIGN:%=\%_%.c),$(sort $(wildcard engine/*.c engine/*/*.c)))
FIRMWARE_SRC := $(sort $(wildcard firmware/*.c))
CLIENT_SRC   := $(sort $(wildcard tools/client/*.c))
TOOLS_SRC    := $(sort $(wildcard tools/*.c))
PROTO_C      := $(BUILD)/gen/hearth/v1/hearth.pb-c.c
obj = $(patsubst %.c,$(BUILD)/%.o,$(1))
ENGINE_OBJ   := $(call obj,$(ENGINE_SRC))
PROTO_OBJ    := $(BUILD)/gen/hearth/v1/hearth.pb-c.o
LIB          := $(BUILD)/libhearth.a

.PHONY: all build lib setup run test test-long test-peers bench install uninstall asan ubsan tsan asan-box tsan-box \
	fuzz tidy format clean check-gpu deb
.DELETE_ON_ERROR:
.SUFFIXES:
all build: $(BUILD)/hearth $(BUILD)/hearthd $(BUILD)/libhearth.so.$(SOVERSION)
lib: $(LIB)

# ---- instruction sets: one overlay per file, picked at run time (engine/cpu/features.c)
# -g1: what the debugger would say of every unrolled variable takes minutes to compile
ISA_avx2       := -g1 -mavx2 -mfma -mf16c -mbmi2
ISA_avx512vnni := -g1 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mfma -mf16c -mbmi2
ISA_avx512bf16 := $(ISA_avx512vnni) -mavx512bf16
ISA_amx        := $(ISA_avx512bf16) -mamx-tile -mamx-int8 -mamx-bf16
ISA_neon       := -g1
ISA_dotprod    := -g1 -march=armv8.2-a+dotprod
ISA_i8mm       := -g1 -march=armv8.2-a+dotprod+i8mm
isa_of = $(foreach i,$(ISAS_$(ARCH)),$(if $(filter %_$(i),$(1)),$(ISA_$(i))))

# All cores for the two commands of the README, unless make was told a number.
JOBS = $(if $(findstring -j,$(MAKEFLAGS)),,-j$(shell nproc))

ifeq ($(V),0)
say = @printf '  %-5s %s\n' $(1) $(2);
else
say =
endif

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(CFLAGS_ALL) $(call isa_of,$(*F)) $(OBJ_FLAGS) -MMD -MP -c $< -o $@
$(BUILD)/gen/%.o: $(BUILD)/gen/%.c
	$(call say,CC,$<)$(CC) $(CFLAGS_ALL) -w -MMD -MP -c $< -o $@

$(BUILD)/engine/cpu/ref%.o: OBJ_FLAGS := -O2
$(BUILD)/firmware/%.o: OBJ_FLAGS = $(LWS_FLAGS) $(SYSTEMD_FLAGS) $(shell $(PKG) --cflags $(FIRMWARE_PKGS))
$(BUILD)/tools/%.o: OBJ_FLAGS = $(LWS_FLAGS) $(shell $(PKG) --cflags $(TOOLS_PKGS))
$(call obj,$(FIRMWARE_SRC) $(CLIENT_SRC) $(TOOLS_SRC)): | $(PROTO_C)

# ---- the wire
$(PROTO_C): proto/hearth/v1/hearth.proto
	@mkdir -p $(BUILD)/gen
	$(call say,PROTO,$<)protoc-c -I proto --c_out=$(BUILD)/gen $<

# ---- libraries
$(LIB): $(ENGINE_OBJ)
	$(call say,AR,$@)rm -f $@ && $(AR) rcs $@ $^
$(BUILD)/libhearth.so.$(SOVERSION): $(ENGINE_OBJ) engine/hearth.map
	$(call say,LD,$@)$(CC) -shared -Wl,-soname,$(@F) -Wl,--version-script=engine/hearth.map -o $@ $(ENGINE_OBJ) \
		$(LDFLAGS_ALL) $(ENGINE_LIBS)

# ---- the web page: bundled by npm where node >= 20 is there, else a page that says so
WEB_SRC := $(shell find firmware/web -type f -not -path '*/node_modules/*')
$(BUILD)/gen/web_assets.c: $(WEB_SRC) tools/build-web proto/hearth/v1/hearth.proto
	@mkdir -p $(BUILD)/gen
	$(call say,WEB,firmware/web)tools/build-web $(BUILD)/web $@

# ---- programs
$(BUILD)/hearthd: $(call obj,$(FIRMWARE_SRC)) $(PROTO_OBJ) $(BUILD)/gen/web_assets.o $(LIB)
	$(call say,LD,$@)$(CC) -o $@ $^ $(LDFLAGS_ALL) $(FIRMWARE_LIBS) $(ENGINE_LIBS)
$(BUILD)/hearth: $(call obj,$(TOOLS_SRC) $(CLIENT_SRC)) $(PROTO_OBJ) $(LIB)
	$(call say,LD,$@)$(CC) -o $@ $^ $(LDFLAGS_ALL) $(TOOLS_LIBS) $(ENGINE_LIBS)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

# ---- tests: tests/Makefile.inc has the rules (C programs by folder, pytest for the rest)
include tests/Makefile.inc

setup:
	tools/setup run
# stdin and stdout belong to the chat: a pipe's lines are questions, and nothing but answers is printed.
run:
	@tools/setup run >&2
	@$(MAKE) --no-print-directory $(JOBS) build </dev/null >&2
	@tools/run $(BUILD)

# Warnings are the ordinary build's business: instrumented code gives gcc false ones.
SAN_ASAN := WARN=-w BUILD=build-asan OPT='-O1 -g -fno-omit-frame-pointer' \
	SAN='-fsanitize=address,undefined -fno-sanitize-recover=undefined'
SAN_TSAN := WARN=-w BUILD=build-tsan OPT='-O1 -g' SAN='-fsanitize=thread'
asan:
	$(MAKE) $(SAN_ASAN) test-c
ubsan: asan
tsan:
	$(MAKE) $(SAN_TSAN) test-c
# the daemon's own tests, the daemon instrumented
asan-box:
	$(MAKE) $(SAN_ASAN) test-box
tsan-box:
	$(MAKE) $(SAN_TSAN) test-box

install: build
	@tools/install $(BUILD) '$(DESTDIR)$(PREFIX)' '$(PREFIX)' $(VERSION) $(SOVERSION)
uninstall:
	@tools/install --remove '$(DESTDIR)$(PREFIX)' $(VERSION) $(SOVERSION)

format:
	clang-format -i $(shell git ls-files '*.c' '*.h')
clean:
	rm -rf $(BUILD) build-*
check-gpu deb:
	@echo "make $@ comes with a later part of Hearth"; exit 69
