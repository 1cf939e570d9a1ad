# SPDX-License-Identifier: Apache-2.0
"""The tree keeps the house rules, and each rule is seen to bite on a planted violation."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TIDY = ROOT / "tools/tidy.py"
SPDX = "// SPDX-License-Identifier: Apache-2.0\n"


def tidy(*arguments):
    return subprocess.run(
        [sys.executable, str(TIDY), *arguments], capture_output=True, text=True, timeout=120
    )


def plant(tmp_path, name, text, spdx=SPDX):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(spdx.encode() + (text if isinstance(text, bytes) else text.encode()))
    return tidy("--root", str(tmp_path))


def test_the_tree_is_tidy():
    done = tidy("--build", os.environ.get("HEARTH_TEST_BUILD", "build"))
    assert done.returncode == 0, done.stdout


FINE = {
    "engine/base/a.c": '#include "engine/base/b.h"\n#include "engine/status.h"\n#include <string.h>\n',
    "engine/cpu/a.c": '#include "engine/ops/ops.h"\n#include "engine/gguf/quant.h"\n#include <immintrin.h>\n',
    "engine/text/a.c": "#include <utf8proc.h>\n",
    "engine/model/a.c": "void f(struct s *s)\n{\n    s->free(s);\n    // strcpy(a, b) in a comment\n}\n",
    "engine/gguf/a.c": 'const char *f(void)\n{\n    return "printf(";\n}\n',
    "firmware/a.c": '#include "engine/engine.h"\n#include "hearth/v1/hearth.pb-c.h"\n#include <sqlite3.h>\n',
    "tools/a.c": '#include "tools/client/client.h"\n#include <histedit.h>\n#include "engine/learn.h"\n',
    "tests/unit/a.c": '#include "engine/model/session.h"\n#include <cmocka.h>\n',
    "engine/cpu/long.c": "// long: one unrolled tile\nvoid f(void)\n{\n" + "    g();\n" * 100 + "}\n",
    "engine/base/seventy.c": "void f(void)\n{\n" + "    g();\n" * 68 + "}\n",
    "engine/base/two.c": ("void f(void)\n{\n" + "    g();\n" * 60 + "}\n") * 2,
    "engine/base/wide.c": "// " + "x" * 107 + "\n",
    "firmware/mkstemp.c": 'const char *t = "/tmp/hearth-' + "X" * 6 + '";\n',
}

BAD = {
    "law: base -> gguf": ("engine/base/a.c", '#include "engine/gguf/gguf.h"\n', "may not include"),
    "law: model -> cpu": ("engine/model/a.c", '#include "engine/cpu/layout.h"\n', "may not include"),
    "law: ops -> engine.h": ("engine/ops/a.h", '#include "engine/engine.h"\n', "may not include"),
    "law: cpu -> cuda": ("engine/cpu/a.c", '#include "engine/cuda/driver.h"\n', "may not include"),
    "law: cpu -> gguf.h": ("engine/cpu/a.c", '#include "engine/gguf/gguf.h"\n', "may not include"),
    "law: engine.c -> cpu": ("engine/engine.c", '#  include "engine/cpu/layout.h"\n', "may not include"),
    "law: firmware -> model": ("firmware/a.c", '#include "engine/model/model.h"\n', "may not include"),
    "law: tools -> firmware": ("tools/a.c", '#include "firmware/store.h"\n', "may not include"),
    "law: relative": ("engine/model/a.c", '#include "model.h"\n', "may not include"),
    "law: new folder": ("engine/net/a.c", "int x;\n", "no row"),
    "library: model -> jansson": ("engine/model/a.c", "#include <jansson.h>\n", "may not include"),
    "library: firmware -> libedit": ("firmware/a.c", "#include <histedit.h>\n", "may not include"),
    "library: unknown": ("tools/a.c", "#include <curl/curl.h>\n", "neither libc nor"),
    "ban: strcpy": ("tools/a.c", "void f(char *a)\n{\n    strcpy(a, a);\n}\n", "strcpy is banned"),
    "ban: sprintf": ("firmware/a.c", "int x = sprintf (a, b);\n", "sprintf is banned"),
    "ban: printf in engine": ("engine/text/a.c", "int x = printf(a);\n", "printf is banned"),
    "ban: getenv in engine": ("engine/engine.c", "char *x = getenv(a);\n", "getenv is banned"),
    "ban: malloc in engine": ("engine/gguf/a.c", "void *x = malloc(8);\n", "malloc is banned"),
    "ban: free in engine": ("engine/gguf/a.c", "void f(void)\n{\n    free(x);\n}\n", "free is banned"),
    "long function": ("tools/a.c", "int f(void)\n{\n" + "    g();\n" * 69 + "}\n", "function of 71 lines"),
    "long kernel, no reason": (
        "engine/cpu/a.c",
        "int f(void)\n{\n" + "    g();\n" * 80 + "}\n",
        "'// long:'",
    ),
    "a reason outside kernels": (
        "engine/text/a.c",
        "// long: mine\nint f(void)\n{\n" + "    g();\n" * 80 + "}\n",
        "of 82",
    ),
    "long file": ("tools/a.c", "int x;\n" * 800, "file of 801 lines"),
    "wide line": ("engine/base/a.h", "// " + "x" * 118 + "\n", "121 columns"),
    "tab": ("firmware/a.c", "\tint x;\n", "a tab"),
    "trailing blank": ("firmware/a.c", "int x; \n", "blanks"),
    "control character": ("tools/a.c", b"int x; // \x1b[0m\n", "U+001B"),
    "invisible character": ("docs/a.md", "a\u200bb\n", "U+200B"),
    "bidirectional mark": ("tools/a.c", "// \u202eabc\n", "U+202E"),
    "not UTF-8": ("tools/a.c", b"// \xff\n", "not UTF-8"),
    "unfinished": ("tools/a.c", "// TO" + "DO: later\n", "unfinished"),
    "home path": ("docs/a.md", "see /ho" + "me/ann/x\n", "path of one machine"),
    "registry": ("tools/a.sh", "curl https://py" + "pi.org/x\n", "host of a package registry"),
    "registry in a lock file": (
        "firmware/web/package-lock.json",
        '"https://registry.' + 'npmjs.org/x"\n',
        "registry",
    ),
    "header not alone": ("engine/base/a.h", "size_t x(void);\n", "does not compile alone as c11"),
    "header not for C++": ("engine/learn.h", "int hearth_x(int class);\n", "does not compile alone as c++11"),
}


@pytest.mark.parametrize("name", FINE)
def test_fine(tmp_path, name):
    done = plant(tmp_path, name, FINE[name])
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("what", BAD)
def test_planted(tmp_path, what):
    name, text, complaint = BAD[what]
    done = plant(tmp_path, name, text)
    assert done.returncode == 1 and complaint in done.stdout and name in done.stdout, (
        done.stdout + done.stderr
    )


def test_missing_licence_line(tmp_path):
    done = plant(tmp_path, "tools/a.c", "int x;\n", spdx="")
    assert done.returncode == 1 and "tools/a.c:1: the first line is not the SPDX line" in done.stdout


def test_exported_names(tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    (tmp_path / "build").mkdir()
    for name, code in (("hearth_fine", 0), ("ht_internal", 1)):
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(tmp_path / "build/libhearth.so.0")],
            input=f"int {name}(void) {{ return 1; }}\n",
            text=True,
            check=True,
        )
        done = subprocess.run(
            [sys.executable, str(TIDY), "--root", str(tmp_path), "--build", "build"],
            capture_output=True,
            text=True,
        )
        complaint = "libhearth.so.0:1: exports ht_internal" in done.stdout
        assert complaint == bool(code), done.stdout
