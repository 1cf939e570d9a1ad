# SPDX-License-Identifier: Apache-2.0
"""The page where it is narrow, turned, enlarged, written from right to left, without a connection, in two tabs,
without a mouse. Answers are made what a test needs on their way from the box."""
import re

import pytest
from playwright.sync_api import expect
from test_page import LONG, QUESTION, say, wait_count, wait_done, wait_writing
from web_box import PHONE, python_client

SMALL = {**PHONE, "viewport": {"width": 360, "height": 740}}
TURNED = {"width": 740, "height": 360}
ARABIC = "كيف حالك اليوم؟ (OK)"
HEBREW = """שלום! תשובה עם `code` ומספר 123.

1. ראשון
2. שני

> ציטוט

| שם | ערך |
|---|---|
| א | 1 |

```c
int main(void) { return 0; }
```

And an English paragraph."""
TALL = "\n\n".join(f"Paragraph {i}. " + "The keeper lit the lamp. " * 8 for i in range(20))
WIDE = """# Größe und Übermut

Some `inline_code_that_is_long_and_has_no_blank_in_it_at_all_really_none` and
Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft 🔥 漢字.

```python
print("a very long line that goes on and on, far beyond the edge of any phone that there is today")
```

| Name | Value | A long heading | Another |
|---|---:|---|---|
| α | 22,000 | some longer text in a cell | a_very_long_word_without_blanks_in_a_cell |
"""


@pytest.fixture
def shown(open_page, paired):
    """A paired page that shows `answer` (and `question`) for what was said, after a reload."""

    def shown(person, answer, question=QUESTION, **options):
        def twist(data):
            frame = python_client.ServerFrame.FromString(data)
            for turn in frame.conversation.turns if frame.WhichOneof("body") == "conversation" else ():
                if turn.finished or turn.role == 2:
                    turn.text = question if turn.role == 2 else answer
            return frame.SerializeToString()

        def route(socket):
            server = socket.connect_to_server()
            server.on_message(lambda data: socket.send(twist(data) if isinstance(data, bytes) else data))

        page = paired(person, **options)
        say(page, "Say one word.")
        wait_done(page)
        page.route_web_socket(re.compile("/ws$"), route)
        page.reload()
        page.locator(".answer .foot").wait_for()
        return page

    return shown


def sideways(page):
    """What can be pushed sideways as a whole."""
    return page.evaluate("""[...document.querySelectorAll('html, .scroller, .list, dialog, .drawer, .top, .card')]
        .filter((e) => e.checkVisibility({ visibilityProperty: true }) && e.scrollWidth > e.clientWidth)
        .map((e) => e.className || e.tagName)""")


def settings(page):
    menu = page.get_by_role("button", name="Conversations")
    if menu.is_visible():
        menu.click()
    page.get_by_role("button", name="Settings").click()
    return page.get_by_role("dialog")


# ---- dialogs

def test_a_notice_stands_above_an_open_dialog(paired):
    """Who asks for the impossible in the settings sees why, and can close the words."""
    page = paired("Abe", scopes=["chat", "train"], **SMALL)
    sheet = settings(page)
    sheet.get_by_label("Name").fill("empty")
    sheet.get_by_role("button", name="Start").click()
    notice = page.locator(".notice")
    expect(notice).to_contain_text("There are no conversations to learn from yet.")
    assert notice.evaluate("""(e) => { const r = e.getBoundingClientRect();
        return e.contains(document.elementFromPoint(r.x + r.width / 3, r.y + r.height / 2)); }""")
    page.get_by_role("button", name="Close this notice").click()
    wait_count(page, ".notice", 0)
    assert sheet.is_visible()


def test_the_longest_name_leaves_room_for_its_copy(paired, box):
    page = paired("Bo", scopes=["chat", "train"])
    say(page, "Say one word.")
    wait_done(page)
    sheet = settings(page)
    name = sheet.get_by_label("Name")
    name.fill("b" * 51)
    assert name.input_value() == "b" * 50
    sheet.get_by_role("button", name="Start").click()
    try:
        sheet.get_by_text(re.compile(r"b{50}: done. loss \d")).wait_for(timeout=120000)
        assert sideways(page) == []
        assert [s["name"] for s in box.admin("data.list")["data_sets"]] == ["b" * 50 + "-conversations"]
    finally:
        box.admin("conversations.delete", person="Bo", id=box.conversation("Bo")["id"])


def test_a_bad_link_leads_back(open_page):
    page = open_page(**SMALL)
    page.get_by_label("Or paste the link").fill("https://localhost/#pair=abc")
    page.get_by_role("button", name="Go on").click()
    page.get_by_role("button", name="Back", exact=True).click()
    page.get_by_label("Or paste the link").wait_for()


# ---- how it looks

def test_wide_answers_on_a_small_phone(shown, screens):
    page = shown("Cid", WIDE, **SMALL)
    assert sideways(page) == []
    page.screenshot(path=screens / "phone-wide.png")
    for name in ("Code", "Table"):
        region = page.get_by_role("region", name=name)
        assert region.evaluate("e => e.scrollWidth > e.clientWidth && e.tabIndex === 0"), name


def test_right_to_left(shown, screens):
    page = shown("Dov", HEBREW, ARABIC, **SMALL)
    page.screenshot(path=screens / "phone-rtl.png")
    side = "e => getComputedStyle(e).direction"
    for selector in (".bubble", ".markdown p >> nth=0", ".markdown ol", ".markdown li >> nth=0", ".markdown blockquote",
                     ".markdown table"):
        assert page.locator(selector).evaluate(side) == "rtl", selector
    for selector in (".markdown pre", ".markdown p >> nth=-1"):
        assert page.locator(selector).evaluate(side) == "ltr", selector
    first = page.locator(".markdown p").first.bounding_box()
    item = page.locator(".markdown li").first.bounding_box()
    assert item["x"] + item["width"] < first["x"] + first["width"] - 8  # its number stands on the right
    area = page.get_by_label("Message to Hearth")
    area.fill(ARABIC)
    assert area.evaluate(side) == "rtl"
    area.fill("English")
    assert area.evaluate(side) == "ltr"


def test_letters_twice_as_large(shown, screens):
    """As who sees badly sets them; the page is as narrow as before."""
    page = shown("Eve", WIDE, scopes=["chat", "train"], **SMALL)
    page.add_init_script("""addEventListener('DOMContentLoaded', () => {
        const sheet = new CSSStyleSheet();
        sheet.replaceSync('html { font-size: 200% }');
        document.adoptedStyleSheets = [sheet];
    })""")
    page.reload()
    page.locator(".answer .foot").wait_for()
    assert page.evaluate("getComputedStyle(document.body).fontSize") == "32px"
    assert sideways(page) == []
    assert page.locator(".skip").evaluate("e => e.getBoundingClientRect().bottom <= 0")
    page.get_by_role("button", name="Conversations").click()
    page.wait_for_timeout(300)
    assert sideways(page) == []
    page.screenshot(path=screens / "phone-large-list.png")
    page.get_by_role("button", name="Settings").click()
    page.get_by_text("Runs on").wait_for()
    assert sideways(page) == []
    assert page.locator(".facts dd").first.evaluate("e => e.clientWidth") > 200
    page.screenshot(path=screens / "phone-large.png")


def test_a_turned_phone_stays_at_the_end(shown):
    page = shown("Flo", TALL, **SMALL)
    left = """(() => { const s = document.querySelector('.scroller');
        return s.scrollHeight - s.scrollTop - s.clientHeight; })()"""
    page.wait_for_function(f"() => {left} < 8")
    page.set_viewport_size(TURNED)
    page.wait_for_timeout(300)
    page.wait_for_function(f"{left} < 8")
    assert sideways(page) == []
    page.evaluate("document.querySelector('.scroller').scrollTop = 0")  # who reads stays there
    page.wait_for_timeout(100)
    page.set_viewport_size(SMALL["viewport"])
    page.wait_for_timeout(300)
    assert page.evaluate("document.querySelector('.scroller').scrollTop") == 0


def test_a_greeting_on_a_turned_phone_begins_at_its_top(paired):
    page = paired("Gus", **{**SMALL, "viewport": TURNED})
    page.wait_for_timeout(200)
    assert page.evaluate("document.querySelector('.scroller').scrollTop") == 0


# ---- without a connection

def test_a_small_phone_without_a_connection(paired, box, open_page, screens):
    open_page.allowed += ["WebSocket connection to", "Failed to load resource"]
    page = paired("Hue", **SMALL)
    say(page, QUESTION)
    wait_done(page)
    page.evaluate("navigator.serviceWorker.ready.then(() => 0)")
    page.reload()
    page.locator(".answer .foot").wait_for()
    box.stop()
    try:
        again = page.get_by_role("button", name="Try now")
        again.wait_for()
        assert again.evaluate("e => e.getBoundingClientRect().height < 1.5 * 44")  # its words stand in one line
        assert page.get_by_role("heading", level=1).evaluate("e => e.clientWidth") > 100
        check_narrow(page)
        page.screenshot(path=screens / "phone-away.png")
        page.reload()
        page.get_by_text("The box cannot be reached. The conversation comes").wait_for()
        page.get_by_role("button", name="Conversations").click()
        page.get_by_text("The box cannot be reached. What was said").wait_for()
        assert page.get_by_text("Nothing said yet.").count() == 0
    finally:
        box.start()
    page.locator(".row-open").wait_for(timeout=60000)
    page.keyboard.press("Escape")
    page.locator(".answer .foot").wait_for()


def test_a_question_without_a_connection_is_asked_when_it_is_back(paired, box, open_page):
    open_page.allowed += ["WebSocket connection to", "Failed to load resource"]
    page = paired("Ivo", **SMALL)
    box.stop()
    try:
        page.get_by_role("button", name="Try now").wait_for()
        say(page, QUESTION)
        page.get_by_text("Sent when the box can be reached").wait_for()
    finally:
        box.start()
    wait_done(page)
    assert "Paris" in page.locator(".answer .markdown").inner_text()
    assert [t["role"] for t in box.conversation("Ivo")["turns"]] == ["user", "assistant"]


def check_narrow(page):
    assert sideways(page) == []
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [360, 360]


# ---- two tabs

def test_signing_out_holds_for_every_tab(paired, box):
    page = paired("Ike")
    other = page.context.new_page()
    other.goto(box.origin)
    other.get_by_label("Message to Hearth").wait_for()
    settings(page).get_by_role("button", name="Sign out").click()
    page.get_by_role("dialog").get_by_role("button", name="Sign out").click()
    for tab in (page, other):
        tab.get_by_role("heading", name="Pair this device").wait_for()


def test_a_tab_that_is_looked_at_again_shows_what_came_meanwhile(paired, box):
    page = paired("Jo")
    say(page, QUESTION)
    wait_done(page)
    other = page.context.new_page()
    other.goto(page.url)
    wait_count(other, ".bubble", 1)
    say(page, "And of Italy?")
    wait_done(page, 2)
    assert other.locator(".bubble").count() == 1
    other.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    wait_count(other, ".bubble", 2)
    wait_count(other, ".answer", 2)


# ---- without a mouse, without eyes

NAMELESS = """[...document.querySelectorAll('button, a[href], input, select, textarea, summary, dialog, [role=region]')]
    .filter((e) => e.checkVisibility({ visibilityProperty: true }))
    .filter((e) => !(e.getAttribute('aria-label')
        ?? document.getElementById(e.getAttribute('aria-labelledby'))?.textContent
        ?? [...(e.labels ?? [])].map((l) => l.textContent).join('') + e.textContent).trim())
    .map((e) => e.outerHTML.slice(0, 80))"""


def test_everything_has_a_name(shown):
    page = shown("Kit", WIDE, scopes=["chat", "train", "admin"])
    assert page.evaluate(NAMELESS) == []
    settings(page).get_by_role("button", name="Start").wait_for()
    assert page.evaluate(NAMELESS) == []
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Rename or delete this conversation").click()
    assert page.evaluate(NAMELESS) == []


def test_with_the_keyboard_alone(paired):
    page = paired("Lou")

    def to(name, key="Tab"):
        for _ in range(60):
            page.keyboard.press(key)
            if page.evaluate("""(name) => { const e = document.activeElement;
                return (e.getAttribute('aria-label') ?? e.textContent).trim().startsWith(name); }""", name):
                return
        raise AssertionError(f"{name} cannot be reached")

    page.keyboard.type(LONG)
    page.keyboard.press("Enter")
    wait_writing(page)
    page.keyboard.press("Escape")  # from the message field
    wait_done(page)
    to("Settings")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name === 'theme'"):
            break
    page.keyboard.press("ArrowRight")
    expect(dialog.get_by_label("Light")).to_be_checked()
    page.keyboard.press("Escape")
    wait_count(page, "dialog", 0)
    to("Delete this answer")
    expect(page.locator(".answer .actions")).to_have_css("opacity", "1")  # it fades in
    page.keyboard.press("Enter")
    dialog.get_by_role("button", name="Cancel").wait_for()
    assert page.evaluate("document.activeElement.textContent") == "Cancel"
    page.keyboard.press("Escape")
    to("To the message field", "Shift+Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "say"
