# SPDX-License-Identifier: Apache-2.0
"""tools/build-web: what it makes with node and without, and that it leaves the source tree alone."""
import os
import re
import shutil
import subprocess

import pytest

from web_box import ROOT

TOOLS = "sh dirname basename mkdir find sort xargs sha256sum cut grep touch cat rm cp protoc-c".split()
PROGRAM = """#include <stdio.h>
#include "firmware/assets.h"
int main(void)
{
    for (size_t i = 0; i < hd_n_assets; i++)
        printf("%s|%s|%s|%zu|%d\\n", hd_assets[i].path, hd_assets[i].mime, hd_assets[i].etag,
               hd_assets[i].len_bytes, hd_assets[i].data[0]);
}
"""


def build_web(folder, **env):
    command = [str(ROOT / "tools" / "build-web"), str(folder / "web"), str(folder / "gen" / "assets.c")]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=300)


def assets(folder):
    """Compiles OUT.c as the build does and lists what is in it."""
    (folder / "main.c").write_text(PROGRAM)
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}"]
    command = ["cc", *flags, "main.c", "gen/assets.c", "-o", "list"]
    subprocess.run(command, cwd=folder, check=True, timeout=120)
    return subprocess.run([folder / "list"], capture_output=True, text=True, check=True).stdout


def test_without_node_there_is_one_page_that_says_so(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in TOOLS:
        if path := shutil.which(name):
            (tools / name).symlink_to(path)
    run = build_web(tmp_path, PATH=str(tools))
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == 1 and "node 20 or newer" in run.stdout
    listed = assets(tmp_path)
    assert re.fullmatch(r"/index.html\|text/html; charset=utf-8\|not-built\|\d+\|60\n", listed), listed
    assert "hearth chat" in (tmp_path / "gen" / "assets.c").read_text()


def test_a_second_build_finds_nothing_to_do(tmp_path, web_build):
    env = {"npm_config_offline": "true"}
    first = build_web(tmp_path, **env)
    assert first.returncode == 0, first.stderr
    if "not built" in first.stdout:
        pytest.skip("web: npm keeps no packages")
    listed = assets(tmp_path)
    for name in ("index.html", "app.js", "app.css", "icon.svg", "manifest.webmanifest", "sw.js"):
        assert f"/{name}|" in listed
    content = (tmp_path / "gen" / "assets.c").read_bytes()
    second = build_web(tmp_path, **env)
    assert second.returncode == 0 and second.stdout == ""
    assert (tmp_path / "gen" / "assets.c").read_bytes() == content
    assert not (ROOT / "firmware" / "web" / "node_modules").exists()


def test_the_lock_file_names_no_host_to_download_from():
    lock = (ROOT / "firmware" / "web" / "package-lock.json").read_text()
    assert '"resolved"' not in lock and '"integrity": "sha512-' in lock


def test_the_bundle_needs_nothing_from_elsewhere(web_build):
    for name in ("app.css", "index.html", "sw.js", "manifest.webmanifest"):
        text = (web_build / "dist" / name).read_text().replace("// ", "")
        assert not re.search(r"(https?:)?//[a-z]", text), name
    html = (web_build / "dist" / "index.html").read_text()
    inline = r"<style|style=|<script(?! type=\"module\" src=\"/app.js\")| on\w+="
    assert "unsafe" not in html and not re.search(inline, html)
    assert not re.search(r"\beval\(|new Function\(", (web_build / "dist" / "app.js").read_text())
