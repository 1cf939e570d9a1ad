# SPDX-License-Identifier: Apache-2.0
"""Hostile model text: whatever it holds, the renderer gives a few plain elements, nothing runs or loads."""
import os
import re
import subprocess
from pathlib import Path

import pytest

from web_box import chromium_path

HERE = Path(__file__).parent
ALLOWED = {
    "P": set(), "BR": set(), "HR": set(), "H1": set(), "H2": set(), "H3": set(), "H4": set(), "H5": set(),
    "H6": set(), "STRONG": set(), "EM": set(), "DEL": set(), "CODE": {"class"}, "PRE": set(),
    "BLOCKQUOTE": set(), "UL": set(), "OL": {"start"}, "LI": set(), "A": {"href", "target", "rel"},
    "TABLE": set(), "THEAD": set(), "TBODY": set(), "TR": set(), "TH": {"align"}, "TD": {"align"},
}
CORPUS = [
    "<script>hit()</script>",
    "<img src=x onerror=hit()>",
    "<svg onload=hit()>",
    "<svg><script>hit()</script></svg>",
    "<iframe src='javascript:hit()'></iframe>",
    "<iframe srcdoc='<script>parent.hit()</script>'></iframe>",
    "<object data='javascript:hit()'></object>",
    "<embed src='//evil.example/x.swf'>",
    "<body onload=hit()>",
    "<details open ontoggle=hit()>x</details>",
    "<video><source onerror=hit()></video>",
    "<audio src=x onerror=hit()>",
    "<input autofocus onfocus=hit()>",
    "<form action='https://evil.example'><button>go</button></form>",
    "<button formaction='javascript:hit()'>x</button>",
    "<a href='javascript:hit()'>x</a>",
    "<style>@import '//evil.example/x.css'; body{background:url(//evil.example/y)}</style>",
    "<link rel=stylesheet href='//evil.example/x.css'>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<base href='//evil.example/'>",
    "<p style='position:fixed;inset:0'>over everything</p>",
    "<div id=app class=turns>clobber</div>",
    "<form id=app><input name=attributes></form>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=hit()&gt;'>",
    "<noscript><p title='</noscript><img src=x onerror=hit()>'>",
    "<template><script>hit()</script></template>",
    "<svg><a xlink:href='javascript:hit()'><text y=20>x</text></a></svg>",
    "<svg><use href='data:image/svg+xml,<svg id=x onload=hit()>#x'/></svg>",
    "<x onclick=hit()>custom</x>",
    "<img src=\"x\" alt=\"`<script>hit()</script>`\">",
    "<<script>hit();//<</script>",
    "<scr<script>ipt>hit()</scr</script>ipt>",
    "<IMG SRC=j&#x61;vascript:hit()>",
    "<!--><img src=x onerror=hit()>-->",
    "<![CDATA[<img src=x onerror=hit()>]]>",
    "<?xml version='1.0'?><img src=x onerror=hit()>",
    "[x](javascript:hit())",
    "[x](JaVaScRiPt:hit())",
    "[x](java\tscript:hit())",
    "[x](java&#10;script:hit())",
    "[x](&#106;avascript:hit())",
    "[x](\\javascript:hit())",
    "[x](vbscript:hit())",
    "[x](data:text/html,<script>hit()</script>)",
    "[x](file:///etc/passwd)",
    "[x](blob:https://localhost/1)",
    "[x](#pair=AAAA)",
    "[x](/hearth-ca.crt)",
    "[x](//evil.example/)",
    "<javascript:hit()>",
    "[x]: javascript:hit()\n\n[x]",
    "[a](https://example.org/\"onmouseover=\"hit()\")",
    "[a](https://example.org 'x\" onmouseover=\"hit()')",
    "![x](https://evil.example/pixel.png)",
    "![x](javascript:hit())",
    "![\"onerror=\"hit()](x)",
    "![x](data:image/svg+xml,<svg onload=hit()>)",
    "[![x](https://evil.example/pixel.png)](https://example.org)",
    "```\"><img src=x onerror=hit()>\ncode\n```",
    "```js\" onclick=\"hit()\n</code></pre><script>hit()</script>\n```",
    "```../../turns icon-button\nx\n```",
    "`<img src=x onerror=hit()>`",
    "| a |\n|---|\n| <img src=x onerror=hit()> |",
    "# <img src=x onerror=hit()>",
    "- <script>hit()</script>\n- [ ] <img src=x onerror=hit()>",
    "> <iframe src=//evil.example></iframe>",
    "<p>&lt;script&gt;hit()&lt;/script&gt;</p>",
    "&lt;img src=x onerror=hit()&gt;",
    "\u0000<img src=x onerror=hit()>",
    "\u202e<script>hit()</script>",
    "<a href=\"https://example.org\" onclick=hit() ping=\"https://evil.example\">x</a>",
    "https://example.org/<script>hit()</script>",
    "hit@example.org<img src=x onerror=hit()>",
    "*" * 2000 + "<script>hit()</script>",
    "[" * 2000 + "](javascript:hit())",
    "> " * 300 + "<img src=x onerror=hit()>",
]
PAGE = """<!DOCTYPE html><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<script type="module" src="/bundle.js"></script><main></main>"""


@pytest.fixture(scope="module")
def bundle(web_build, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundle") / "bundle.js"
    site = web_build / "site"
    command = ["node", str(site / "node_modules/esbuild/bin/esbuild"), str(HERE / "sanitise_entry.mjs"),
               "--bundle", "--format=esm", f"--outfile={out}", "--log-level=warning"]
    env = {**os.environ, "NODE_PATH": str(site / "node_modules")}
    subprocess.run(command, check=True, env=env, timeout=120)
    return out.read_text()


@pytest.fixture(scope="module")
def page(browser_type, web_build, bundle):
    """A page under the real page's policy, whose every request is answered here and noted."""
    html = (web_build / "dist/index.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)[1]
    browser = browser_type.launch(executable_path=chromium_path())
    page = browser.new_page()
    page.asked = []

    def answer(route):
        path = route.request.url
        if path == "https://page.test/":
            route.fulfill(body=PAGE.format(policy=policy), content_type="text/html")
        elif path == "https://page.test/bundle.js":
            route.fulfill(body=bundle, content_type="text/javascript")
        elif path.endswith("/favicon.ico"):
            route.abort()
        else:
            page.asked.append(path)
            route.abort()

    page.route("**/*", answer)
    page.add_init_script("""window.hits = 0; window.hit = () => hits++; window.broken = [];
        window.alert = hit;
        addEventListener('securitypolicyviolation', (e) => broken.push(e.violatedDirective))""")
    page.goto("https://page.test/")
    page.wait_for_function("() => window.show !== undefined")
    yield page
    browser.close()


DESCRIBE = """async (text) => {
    const main = show(text);
    await new Promise((done) => setTimeout(done, 10));
    for (const element of main.querySelectorAll("*")) element.dispatchEvent(new MouseEvent("mouseover"));
    return {
        hits, broken, url: location.href, text: main.textContent,
        elements: [...main.querySelectorAll("*")].map((e) =>
            [e.tagName, [...e.attributes].map((a) => [a.name, a.value])]),
    };
}"""


@pytest.mark.parametrize("text", CORPUS, ids=range(len(CORPUS)))
def test_hostile_text(page, text):
    page.asked.clear()
    seen = page.evaluate(DESCRIBE, text)
    assert (seen["hits"], seen["broken"], page.asked, seen["url"]) == (0, [], [], "https://page.test/")
    for tag, attributes in seen["elements"]:
        assert tag in ALLOWED, f"<{tag}>"
        values = dict(attributes)
        assert set(values) <= ALLOWED[tag], f"<{tag} {values}>"
        assert re.match(r"(https?|mailto):", values.get("href", "https:")), values
        assert re.fullmatch(r"language-[\w+#.-]{1,32}", values.get("class", "language-x")), values
        if "href" in values:
            assert values["target"] == "_blank" and "noopener" in values["rel"]


def test_raw_html_stays_readable(page):
    assert "<img src=x onerror=hit()>" in page.evaluate(DESCRIBE, "look: <img src=x onerror=hit()>")["text"]


def test_a_picture_becomes_its_description(page):
    assert "[picture: a cat]" in page.evaluate(DESCRIBE, "![a cat](https://evil.example/cat.png)")["text"]


def test_ordinary_markdown_is_drawn(page):
    seen = page.evaluate(DESCRIBE, "# T\n\n**b** *i* ~~d~~ `c`\n\n```python\nx\n```\n\n1. a\n2. b\n\n"
                                   "| h |\n|--:|\n| 1 |\n\n> q\n\n"
                                   "[l](https://example.org) me@example.org\n\n---\n")
    tags = {tag for tag, _ in seen["elements"]}
    assert tags >= {"H1", "STRONG", "EM", "DEL", "CODE", "PRE", "OL", "LI", "TABLE", "TD", "BLOCKQUOTE", "A",
                    "HR"}
    assert ["CODE", [["class", "language-python"]]] in seen["elements"]
    links = [dict(a)["href"] for tag, a in seen["elements"] if tag == "A"]
    assert links == ["https://example.org", "mailto:me@example.org"]


def test_a_growing_text_is_clean_at_every_length(page):
    text = ("Hi <img src=x onerror=hit()> ```js\n<script>hit()</script>\n``` [x](javascript:hit()) "
            "| <svg onload=hit()>")
    for n in range(len(text)):
        seen = page.evaluate(DESCRIBE, text[:n])
        assert seen["hits"] == 0 and {tag for tag, _ in seen["elements"]} <= set(ALLOWED)
