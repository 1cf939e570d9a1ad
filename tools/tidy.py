#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The house rules that a program can check. Prints "file:line: what is wrong", exit 1 if there is anything.

  tools/tidy.py [--root DIR] [--build DIR] [FILE...]

Who may include whom (docs/design.md, section 1), banned functions, lengths of functions, files and lines,
licence lines, stray characters, paths and hosts that belong to one machine; with a build, the names that
libhearth.so exports; with compilers, that engine headers stand alone and the public ones are C++-safe too.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

MAX_COLUMNS, MAX_FILE_LINES, MAX_FUNCTION_LINES = 120, 800, 70
C_SUFFIXES = (".c", ".h", ".cu", ".cuh", ".comp", ".glsl")
PAGE_SUFFIXES = (".js", ".mjs", ".ts", ".css")  # their own tools format them: no column limit here
CODE_SUFFIXES = C_SUFFIXES + PAGE_SUFFIXES + (".py", ".sh", ".proto", ".inc")
BINARY_SUFFIXES = (".png", ".jpg", ".ico", ".gguf", ".npy", ".bin", ".woff2", ".gz")
RAW_FOLDERS = ("tests/golden/", "tests/fuzz/seeds/")  # data whose odd bytes and long lines are the point
PUBLIC = ("engine/engine.h", "engine/status.h", "engine/learn.h", "engine/convert.h")

# ---- who may include whom: folder -> prefixes (or files) of the tree that it may include, its own included
QUANT = "engine/gguf/quant.h"
BACKEND = ("engine/base/", "engine/ops/", QUANT)
ENGINE = ("engine/base/", "engine/gguf/", "engine/text/", "engine/ops/", "engine/model/")
LAW = {
    "engine/base": ("engine/base/",),
    "engine/gguf": ("engine/base/", "engine/gguf/"),
    "engine/text": ("engine/base/", "engine/text/"),
    "engine/ops": ("engine/base/", "engine/ops/", QUANT),
    "engine/cpu": BACKEND + ("engine/cpu/",),
    "engine/cuda": BACKEND + ("engine/cuda/",),
    "engine/vulkan": BACKEND + ("engine/vulkan/",),
    "engine/model": ENGINE + PUBLIC,
    "engine/learn": ENGINE + ("engine/learn/",) + PUBLIC,
    "engine": ENGINE + ("engine/learn/",) + PUBLIC,
    "firmware": PUBLIC + ("firmware/", "hearth/v1/"),
    "tools": PUBLIC + ("tools/", "hearth/v1/"),
}
# library header -> folders that may include it; any other header outside libc is for tests only
LIBRARIES = {
    r"utf8proc\.h": ("engine/text",),
    r"jansson\.h": ("engine/base", "engine/gguf", "engine/learn", "engine/text", "firmware", "tools"),
    r"libwebsockets\.h|mbedtls/.*|psa/.*": ("firmware", "tools"),
    r"protobuf-c/.*": ("firmware", "tools"),
    r"qrencode\.h": ("firmware", "tools"),
    r"sqlite3\.h|argon2\.h|systemd/.*": ("firmware",),
    r"histedit\.h|editline/.*": ("tools",),
}
LIBC = re.compile(
    r"""(assert|complex|ctype|errno|fenv|float|inttypes|iso646|limits|locale|math|setjmp|signal|
    stdalign|stdarg|stdatomic|stdbool|stddef|stdint|stdio|stdlib|stdnoreturn|string|strings|tgmath|threads|
    time|uchar|wchar|wctype|aio|byteswap|cpuid|dirent|dlfcn|endian|fcntl|getopt|glob|ifaddrs|langinfo|libgen|
    malloc|net/if|netdb|arpa/inet|netinet/[a-z0-9_]+|poll|pthread|pty|pwd|grp|regex|sched|semaphore|spawn|
    stdio_ext|syslog|termios|ucontext|unistd|sysexits|elf|ftw|link|linux/[a-z0-9_/]+|asm/[a-z0-9_]+|
    sys/[a-z0-9_]+|immintrin|x86intrin|arm_neon|arm_bf16|arm_fp16|sanitizer/[a-z]+_interface)\.h$""",
    re.VERBOSE,
)

# ---- bans
BANNED = "strcpy strcat sprintf vsprintf strtok atoi atol atoll atof gets alloca sched_yield".split()
BANNED_IN_ENGINE = """printf fprintf vprintf vfprintf puts putchar perror exit _exit quick_exit abort getenv
    secure_getenv assert""".split()
ALLOCATORS = (
    "malloc calloc realloc reallocarray strdup strndup aligned_alloc posix_memalign memalign free".split()
)
ALLOCATOR_HOME = ("engine/base/mem.c", "engine/base/mem.h")

# Written in pieces, so that this file does not hold what it looks for.
UNFINISHED = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|X" r"XX)\b")
MACHINE_PATH = re.compile(r"(?<![\w.$}*])/(?:(?:wo" r"rk|ro" r"ot)(?:/|\b)|(?:ho" r"me|Us" r"ers)/[a-z])")
HOSTS = """pypi org, pythonhosted org, registry npmjs, registry yarnpkg, debian org/debian, deb debian,
    security debian, snapshot debian, archive ubuntu, ports ubuntu, security ubuntu, proxy golang, crates io,
    unpkg com, jsdelivr net"""
REGISTRY = re.compile("|".join(x.strip().replace(" ", r"\.") for x in HOSTS.split(",")))


def strip_c(text):
    """The same text with comments, strings and character constants blanked out; line numbers stay."""
    pattern = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.DOTALL)
    return pattern.sub(blanked, text)


def blanked(match):
    return re.sub(r"[^\n]", " ", match.group())


def line_of(text, position):
    return text.count("\n", 0, position) + 1


def folder_of(path):
    """The folder whose row of LAW holds for a file; None where there is no law (tests)."""
    parts = path.split("/")
    if parts[0] == "engine" and len(parts) > 2:
        return "/".join(parts[:2])
    return parts[0] if parts[0] in LAW else None


def check_includes(path, text):
    folder = folder_of(path)
    if folder is None:
        return
    if folder not in LAW:
        yield 1, f"{folder} has no row in the include law"
        return
    for match in re.finditer(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]', text, re.MULTILINE):
        kind, name, line = match[1], match[2], line_of(text, match.start())
        if kind == '"':
            beside = path in PUBLIC and f"engine/{name}" in PUBLIC  # installed side by side
            if name != "engine/status.h" and not beside and not name.startswith(LAW[folder]):
                yield line, f'{folder} may not include "{name}"'
            continue
        homes = next((homes for pattern, homes in LIBRARIES.items() if re.fullmatch(pattern, name)), None)
        if homes is None and not LIBC.match(name):
            yield line, f"<{name}> is neither libc nor a library that Hearth uses"
        elif homes is not None and folder not in homes:
            yield line, f"{folder} may not include <{name}>"


def check_bans(path, code):
    banned = list(BANNED)
    if path.startswith("engine/"):
        banned += BANNED_IN_ENGINE
        if path not in ALLOCATOR_HOME:
            banned += ALLOCATORS
    for match in re.finditer(rf"(?<![\w.>])({'|'.join(banned)})[ \t]*\(", code):
        yield line_of(code, match.start()), f"{match[1]} is banned here"


def functions(code):
    """(first line, line of the opening brace, last line) of every function body in stripped C."""
    code = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", blanked, code, flags=re.MULTILINE)
    code = re.sub(r"\bextern\s*\{", blanked, code)
    depth, start, opened, declared = 0, None, 0, 0
    for match in re.finditer(r"[{};]", code):
        mark = match.group()
        if mark == "{":
            if depth == 0 and code[declared : match.start()].rstrip().endswith(")"):
                blank = re.match(r"\s*", code[declared:])[0]
                start, opened = line_of(code, declared + len(blank)), line_of(code, match.start())
            depth += 1
        elif mark == "}":
            depth = max(0, depth - 1)
            if depth == 0 and start is not None:
                yield start, opened, line_of(code, match.start())
                start = None
        if depth == 0:
            declared = match.end()


def check_lengths(path, text, code):
    lines = text.split("\n")
    kernel = path.startswith(("engine/cpu/", "kernels/", "shaders/"))
    for start, opened, last in functions(code):
        if last - opened + 1 <= MAX_FUNCTION_LINES:
            continue
        above = lines[start - 2] if start >= 2 else ""
        if not (kernel and re.match(r"\s*(//|/\*) ?long: \S", above)):
            yield (
                opened,
                f"a function of {last - opened + 1} lines (at most {MAX_FUNCTION_LINES}"
                + ("; a kernel says why in a '// long:' line above)" if kernel else ")"),
            )


def check_text(path, text):
    name = path.rsplit("/", 1)[-1]
    code = path.endswith(CODE_SUFFIXES) or text.startswith("#!") or name == "Makefile"
    lines = text.split("\n")
    if code and len(lines) - 1 > MAX_FILE_LINES:
        yield len(lines) - 1, f"a file of {len(lines) - 1} lines (at most {MAX_FILE_LINES})"
    licensed = any("SPDX-License-Identifier: Apache-2.0" in x for x in lines[:2])
    if (code or path.endswith((".html", ".map"))) and not licensed:
        yield 1, "the first line is not the SPDX line"
    for number, line in enumerate(lines, 1):
        if code and not path.endswith(PAGE_SUFFIXES) and len(line) > MAX_COLUMNS:
            yield number, f"{len(line)} columns (at most {MAX_COLUMNS})"
        if code and line != line.rstrip():
            yield number, "blanks at the end of the line"
        if path.endswith(C_SUFFIXES) and "\t" in line:
            yield number, "a tab"
        for character in line:
            if character in "\t\x20" or unicodedata.category(character) not in (
                "Cc",
                "Cf",
                "Co",
                "Zl",
                "Zp",
                "Zs",
            ):
                continue
            yield number, f"an invisible character, U+{ord(character):04X}"
            break
        if UNFINISHED.search(line):
            yield number, "a mark of unfinished work"
        if MACHINE_PATH.search(line):
            yield number, "a path of one machine"
        if REGISTRY.search(line):
            yield number, "a host of a package registry"


def check_file(root, path):
    raw = (root / path).read_bytes()
    if path.endswith(BINARY_SUFFIXES) or path.startswith(RAW_FOLDERS):
        return
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        yield 1, "not UTF-8"
        return
    yield from check_text(path, text)
    if path.endswith(C_SUFFIXES):
        code = strip_c(text)
        yield from check_includes(path, text)
        yield from check_bans(path, code)
        yield from check_lengths(path, text, code)


def files_of(root):
    """Every file of the project: tracked ones and new ones that are not ignored."""
    if (root / ".git").exists():
        names = subprocess.run(
            ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=root, capture_output=True, check=True
        )
        return sorted({x for x in names.stdout.decode().split("\0") if x and (root / x).is_file()})
    return sorted(str(x.relative_to(root)) for x in root.rglob("*") if x.is_file())


def check_exports(build):
    library = next((build / x for x in ("libhearth.so.0", "libhearth.so") if (build / x).exists()), None)
    if library is None or shutil.which("nm") is None:
        return
    names = subprocess.run(
        ["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True
    ).stdout
    for line in names.splitlines():
        kind, name = line.split()[-2:]
        if kind not in "Aw" and not name.startswith("hearth_"):
            yield str(library), 1, f"exports {name}"


def c_compiler(path):
    """The compiler of the machine that a header is for; None where there is none."""
    machine = "aarch64" if path.endswith("_neon.h") else "x86_64" if re.search(r"_(avx|amx)", path) else ""
    name = "gcc" if machine in ("", platform.machine()) else f"{machine}-linux-gnu-gcc"
    return name if shutil.which(name) else None


def check_headers(root, paths):
    """Every engine header compiles alone as C11, every public one as C++ too; a template is no header by itself."""
    for path in paths:
        if not (path.startswith("engine/") and path.endswith(".h")) or path.endswith("_template.h"):
            continue
        public = path in PUBLIC
        flags = [
            "-fsyntax-only",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-psabi",
            f"-I{root}",
            "-pedantic" if public else "-D_GNU_SOURCE",
        ]
        for compiler, language, standard in ((c_compiler(path), "c", "c11"), ("g++", "c++", "c++11")):
            if not compiler or shutil.which(compiler) is None or (language == "c++" and not public):
                continue
            done = subprocess.run(
                [compiler, "-x", language, f"-std={standard}", *flags, "-"],
                cwd=root,
                text=True,
                input=f'#include "{path}"\n',
                capture_output=True,
            )
            if done.returncode != 0:
                first = next((x for x in done.stderr.splitlines() if "error" in x), "?")
                yield path, 1, f"does not compile alone as {standard}: {first}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--build", default=os.environ.get("HEARTH_TEST_BUILD", "build"))
    parser.add_argument("files", nargs="*", metavar="FILE")
    args = parser.parse_args()
    root = args.root.resolve()
    paths = args.files or files_of(root)
    found = [(path, line, message) for path in paths for line, message in check_file(root, path)]
    found += check_headers(root, paths)
    if not args.files:
        found += check_exports(root / args.build)
    for path, line, message in found:
        print(f"{path}:{line}: {message}")
    print(f"tidy: {len(paths)} files, {len(found)} complaints", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
