# SPDX-License-Identifier: Apache-2.0
"""The page in a real Chromium against a real hearthd with the real default model."""
import contextlib
import json
import os
import re
import subprocess
import time

import pytest
import web_box
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from playwright.sync_api import expect
from web_box import PHONE, ROOM_PX, python_client

QUESTION = "What is the capital of France?"
LONG = "Write a long story about a lighthouse keeper and his cat. Tell at least ten chapters."
ENOUGH_MS = 40000
ANSWERS = ".answer .markdown"
NO_END = [{"token": token, "bias": -100} for token in range(3)]  # the model's end tokens, forbidden


@pytest.fixture
def endless(paired):
    """A paired page whose answers go on until their context is full, however fast the machine is."""

    def endless(person):
        def without_end(data):
            frame = python_client.ClientFrame.FromString(data)
            if frame.WhichOneof("body") == "chat":
                frame.chat.sampling.MergeFrom(type(frame.chat.sampling)(logit_bias=NO_END))
            return frame.SerializeToString()

        def route(socket):
            server = socket.connect_to_server()
            socket.on_message(lambda data: server.send(without_end(data) if isinstance(data, bytes) else data))

        page = paired(person)
        page.route_web_socket(re.compile("/ws$"), route)
        page.reload()
        page.get_by_label("Message to Hearth").wait_for()
        return page

    return endless


@contextlib.contextmanager
def answering(box):
    """Meanwhile somebody is given an answer that does not end."""
    host, port, secret, _ = python_client.parse_link(box.pair("Olga"))
    with python_client.Client(host, port, box.ca.read_text()) as client:
        client.pair(secret, "endless")
        accepted = client.call("chat", text=LONG, sampling={"temperature": {"value": 1}, "logit_bias": NO_END})
        yield
        client.call("cancel", response_id=accepted.response_id)


def say(page, text):
    page.get_by_label("Message to Hearth").fill(text)
    page.get_by_role("button", name="Send", exact=True).click()


def stop_if_writing(page):
    """An answer may end between the look and the click."""
    stop = page.get_by_role("button", name="Stop the answer")
    if stop.is_visible():
        with contextlib.suppress(PlaywrightTimeout):
            stop.click(timeout=5000)


def wait_done(page, n=1):
    """Until the n-th answer has ended and shows its usage. A model may never end: then it is stopped."""
    ended = "([n, ms]) => document.querySelectorAll('.answer .usage').length >= n || performance.now() > ms"
    until_ms = page.evaluate("performance.now()") + ENOUGH_MS
    page.wait_for_function(ended, arg=[n, until_ms], timeout=2 * ENOUGH_MS)
    stop_if_writing(page)
    page.wait_for_function("n => document.querySelectorAll('.answer .usage').length >= n", arg=n)


def wait_writing(page, n_chars=40):
    page.wait_for_function("""n => [...document.querySelectorAll('.answer[aria-busy=true] .markdown')]
        .some((e) => e.textContent.length >= n)""", arg=n_chars, timeout=60000)


def wait_count(page, selector, n):
    page.wait_for_function("([s, n]) => document.querySelectorAll(s).length === n", arg=[selector, n])


def answer_text(page, n=-1):
    return page.locator(ANSWERS).nth(n).inner_text()


def heads(page):
    return page.locator(".row-open").all_inner_texts()


def background(page):
    """Brightness of the page's ground, 0 to 255."""
    rgb = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", rgb)[:3])) / 3


# ---- pairing

def test_unpaired_it_tells_how_to_pair(open_page):
    page = open_page()
    page.get_by_role("heading", name="Pair this device").wait_for()
    assert "hearth pair --person NAME" in page.inner_text("main")
    assert page.get_by_role("link", name="certificate").get_attribute("href") == "/hearth-ca.crt"


def test_a_link_pairs_once(open_page, box):
    link = box.pair("Ann")
    page = open_page(link)
    assert "pair=" not in page.url
    name = page.get_by_label("Device name")
    assert name.input_value() == "Chrome on Linux"
    name.fill("Kitchen table")
    page.get_by_role("button", name="Pair", exact=True).click()
    page.get_by_role("heading", name=re.compile("Ann")).wait_for()
    assert page.locator(".link.online").inner_text() == "Connected"
    assert any(d["name"] == "Kitchen table" and d["connected"] for d in box.admin("devices.list")["devices"])
    assert "pair" not in page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")
    page.reload()
    page.get_by_role("heading", name=re.compile("Ann")).wait_for()

    other = open_page(link)
    other.get_by_role("button", name="Pair", exact=True).click()
    assert "used already" in other.get_by_role("alert").inner_text()


def test_a_broken_link_is_said_to_be_one(open_page):
    page = open_page()
    page.get_by_label("Or paste the link").fill("https://localhost/#pair=abc")
    page.get_by_role("button", name="Go on").click()
    assert "not a whole pairing link" in page.get_by_role("alert").inner_text()


def test_a_pasted_link_pairs(open_page, box):
    page = open_page()
    page.get_by_label("Or paste the link").fill(box.pair("Ann"))
    page.get_by_role("button", name="Go on").click()
    page.get_by_role("button", name="Pair", exact=True).click()
    page.get_by_label("Message to Hearth").wait_for()


def test_signing_out_forgets_the_token(paired):
    page = paired()
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("dialog").get_by_role("button", name="Sign out").click()
    page.get_by_role("heading", name="Pair this device").wait_for()
    page.reload()
    page.get_by_role("heading", name="Pair this device").wait_for()


def test_a_revoked_device_is_told(paired, box):
    page = paired("Rita")
    device = box.admin("devices.list", person="Rita")["devices"][0]
    box.admin("devices.revoke", id=device["id"])
    page.get_by_role("heading", name="Pair this device").wait_for()
    assert "no longer knows this device" in page.get_by_role("alert").inner_text()


# ---- asking

def test_an_answer_is_shown_and_stored(paired, box):
    page = paired("Bea")
    say(page, QUESTION)
    wait_done(page)
    assert "Paris" in answer_text(page)
    assert re.search(r"\d+ tokens · [\d.]+ tok/s", page.locator(".usage summary").inner_text())
    assert page.locator(".bubble").inner_text() == QUESTION
    stored = box.conversation("Bea")["turns"]
    assert [t["role"] for t in stored] == ["user", "assistant"] and stored[0]["text"] == QUESTION
    page.locator(".usage summary").click()
    assert str(stored[1]["usage"]["seed"]) in page.locator(".usage").inner_text()


def test_a_second_question_goes_on(paired):
    page = paired("Cleo")
    say(page, QUESTION)
    wait_done(page)
    page.get_by_label("Message to Hearth").press_sequentially("And of Italy?")
    page.keyboard.press("Enter")
    wait_done(page, 2)
    assert page.locator(".bubble").all_inner_texts() == [QUESTION, "And of Italy?"]
    assert len(heads(page)) == 1


def test_shift_enter_breaks_the_line(paired):
    page = paired()
    area = page.get_by_label("Message to Hearth")
    height = area.bounding_box()["height"]
    area.press_sequentially("one")
    for _ in range(3):
        page.keyboard.press("Shift+Enter")
    area.press_sequentially("two")
    assert area.input_value() == "one\n\n\ntwo"
    assert area.bounding_box()["height"] > height + 40
    assert page.locator(".turn").count() == 0


def test_an_answer_streams_and_stops(endless):
    page = endless("Dora")
    page.evaluate("""() => {
        window.lengths = new Set();
        new MutationObserver(() => {
            const e = document.querySelector('.answer[aria-busy=true] .markdown');
            if (e) lengths.add(e.textContent.length);
        }).observe(document.body, { subtree: true, childList: true, characterData: true });
    }""")
    say(page, LONG)
    page.wait_for_function("() => lengths.size >= 5")  # it grows before it ends
    wait_writing(page)
    page.get_by_role("button", name="Stop the answer").click()
    wait_done(page)
    assert "Stopped." in page.locator(".answer .note").inner_text()
    text = answer_text(page)
    page.wait_for_timeout(700)
    assert answer_text(page) == text
    page.reload()
    wait_done(page)
    assert answer_text(page) == text
    assert "Stopped." in page.locator(".answer .note").inner_text()


def test_a_reload_in_the_middle_shows_the_whole_answer(endless):
    page = endless("Emil")
    say(page, LONG)
    wait_writing(page, 60)
    start = answer_text(page)[:40]
    page.reload()
    page.locator(".answer[aria-busy=true]").wait_for()
    wait_writing(page, 120)
    page.wait_for_timeout(500)
    page.get_by_role("button", name="Stop the answer").click()
    wait_done(page)
    resumed = answer_text(page)
    assert resumed.startswith(start) and len(resumed) > 120
    page.reload()
    wait_done(page)
    assert answer_text(page) == resumed


def test_a_lost_connection_loses_nothing(endless):
    page = endless("Fay")
    say(page, LONG)
    for n_chars in (40, 160, 280):
        wait_writing(page, n_chars)
        page.evaluate("__sockets.at(-1).close()")
        page.wait_for_function("n => __sockets.length > n && __sockets.at(-1).readyState === 1",
                               arg=page.evaluate("__sockets.length") - 1)
    wait_writing(page, 400)
    page.get_by_role("button", name="Stop the answer").click()
    wait_done(page)
    lived_through = answer_text(page)
    page.reload()
    wait_done(page)
    assert answer_text(page) == lived_through


def test_leaving_and_coming_back_while_it_writes(endless):
    page = endless("Gil")
    say(page, LONG)
    wait_writing(page)
    page.get_by_role("button", name="New conversation").click()
    wait_count(page, ".turn", 0)
    page.locator(".row-open").first.click()
    wait_writing(page, 100)
    page.get_by_role("button", name="Stop the answer").click()
    wait_done(page)


def test_hostile_words_stay_words(paired, box):
    page = paired("Hal")
    text = "<img src=x onerror=alert(1)> <script>alert(1)</script> ![p](https://evil.example/p.png)"
    say(page, text)
    wait_done(page)  # not while it writes: a short answer may be over before anybody looks
    assert page.locator(".bubble").inner_text() == text
    page.get_by_role("button", name="Rename or delete this conversation").click()
    page.get_by_label("Name", exact=True).fill(text)
    page.get_by_role("button", name="Save name").click()
    page.locator(".row-open", has_text="<script>").wait_for()


def test_a_box_that_goes_away_and_comes_back(paired, box, open_page):
    open_page.allowed += ["WebSocket connection to", "Failed to load resource"]
    page = paired("Ida")
    say(page, QUESTION)
    wait_done(page)
    text = answer_text(page)
    box.stop()
    page.get_by_text("No connection").wait_for()
    page.get_by_role("button", name="Try now").wait_for()
    box.start()
    page.get_by_text("Connected").wait_for(timeout=40000)
    assert answer_text(page) == text
    say(page, "Thank you.")
    wait_done(page, 2)


# ---- conversations

def test_rename(paired, box):
    page = paired("Jan")
    say(page, QUESTION)
    wait_done(page)
    page.get_by_role("button", name="Rename or delete this conversation").click()
    page.get_by_label("Name", exact=True).fill("All about Paris")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="All about Paris").wait_for()
    assert heads(page) == ["All about Paris"]
    assert box.conversation("Jan")["title"] == "All about Paris"
    page.reload()
    page.get_by_role("heading", name="All about Paris").wait_for()


def test_deleting_a_message_asks_first(paired, box):
    page = paired("Kim")
    say(page, QUESTION)
    wait_done(page)
    say(page, "And of Italy?")
    wait_done(page, 2)
    delete = page.get_by_role("button", name="Delete this message and its answer").first
    page.locator(".question").first.hover()
    delete.click()
    page.get_by_role("button", name="Cancel").click()
    assert len(box.conversation("Kim")["turns"]) == 4
    page.locator(".question").first.hover()
    delete.click()
    page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    wait_count(page, ".bubble", 1)
    assert page.locator(".bubble").inner_text() == "And of Italy?"
    assert [t["text"] for t in box.conversation("Kim")["turns"] if t["role"] == "user"] == ["And of Italy?"]


def test_deleting_a_conversation_asks_first(paired, box):
    page = paired("Lea")
    say(page, QUESTION)
    wait_done(page)
    page.get_by_role("button", name="New conversation").click()
    say(page, "Good morning.")
    wait_done(page)
    assert len(heads(page)) == 2
    page.get_by_role("button", name="Rename or delete this conversation").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert len(box.admin("conversations.list", person="Lea")["conversations"]) == 2
    page.get_by_role("button", name="Rename or delete this conversation").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    wait_count(page, ".row", 1)
    wait_count(page, ".turn", 0)
    assert len(box.admin("conversations.list", person="Lea")["conversations"]) == 1


def test_people_see_only_their_own(paired):
    page = paired("Mia")
    say(page, QUESTION)
    wait_done(page)
    other = paired("Noa")
    other.get_by_text("Nothing said yet.").wait_for()
    other.goto(page.url)
    other.get_by_text("no longer on the box").wait_for()
    wait_count(other, ".turn", 0)


def test_the_back_button_goes_back(paired):
    page = paired("Ole")
    say(page, QUESTION)
    wait_done(page)
    page.get_by_role("button", name="New conversation").click()
    page.go_back()
    page.locator(".bubble").wait_for()
    page.go_forward()
    wait_count(page, ".bubble", 0)


# ---- settings and looks

def test_settings_tell_about_the_box(paired, box, open_page):
    page = paired("Pam")
    page.get_by_role("button", name="Settings").click()
    sheet = page.get_by_role("dialog")
    status = box.admin("status")
    sheet.get_by_text(status["device"]).wait_for()
    assert status["model"]["name"] in sheet.inner_text()
    for name, start in (("Certificate (.crt)", b"\x30\x82"), ("iPhone and iPad", b"<?xml")):
        with page.expect_download() as download:
            sheet.get_by_role("link", name=name).click()
        assert download.value.path().read_bytes().startswith(start)
    page.keyboard.press("Escape")
    wait_count(page, "dialog", 0)
    assert page.evaluate("document.activeElement.textContent").startswith("Settings")


def command(box, *words):
    env = os.environ | {"HEARTH_ADMIN_SOCKET": str(box.folder / "run" / "admin.sock")}
    return subprocess.run([web_box.build_dir() / "hearth", *words], env=env, capture_output=True, text=True)


def test_what_was_learnt_is_chosen_in_the_settings(paired, box, tmp_path):
    def hearth(*words):
        return command(box, *words)

    turns = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "The hearth of the house."}]
    (tmp_path / "set.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    done = hearth("data", "import", "house", tmp_path / "set.jsonl")
    assert done.returncode == 0, done.stderr
    words = ["--rank", "1", "--seq", "64", "--batch", "1", "--held-out", "0", "--max-steps", "1"]
    end = time.monotonic() + 30
    while "being looked at" in (done := hearth("train", "start", "house", "manners", *words)).stderr:
        assert time.monotonic() < end
        time.sleep(0.2)
    assert done.returncode == 0, done.stderr
    try:
        page = paired("Lea")
        page.get_by_role("button", name="Settings").click()
        sheet = page.get_by_role("dialog")
        sheet.get_by_text("manners: done", exact=True).wait_for()
        choice = sheet.get_by_label("What it has learnt")
        for name in ("manners", ""):
            choice.select_option(name)
            expect(choice).to_be_enabled()  # the answer has come
            used = [c["adapter"] for c in box.admin("adapters.list")["choices"] if c["person"] == "Lea"]
            assert used == [name or None]
            page.reload()
            page.get_by_role("button", name="Settings").click()
            choice.wait_for()
            assert choice.input_value() == name
        (web_box.build_dir() / "screens").mkdir(exist_ok=True)
        page.screenshot(path=web_box.build_dir() / "screens" / "learnt.png")
    finally:
        assert hearth("adapter", "rm", "manners").returncode == 0 and hearth("data", "rm", "house").returncode == 0


def test_the_box_learns_from_ones_own_conversations(paired, box, screens):
    page = paired("Liv", scopes=["chat", "train"])
    say(page, "Say one word.")
    wait_done(page)
    page.get_by_role("button", name="Settings").click()
    sheet = page.get_by_role("dialog")
    name = sheet.get_by_label("Name")
    name.wait_for()
    assert sheet.get_by_label("Learn from").input_value() == "my conversations"
    start = sheet.get_by_role("button", name="Start")
    name.fill("not a name")
    start.click()
    assert name.evaluate("e => !e.validity.valid") and box.admin("data.list")["data_sets"] == []
    name.fill("my-way")
    try:
        with answering(box):  # until that is over the training waits
            start.click()
            sheet.get_by_role("progressbar", name="my-way").wait_for()
            remove = sheet.get_by_role("button", name="Delete my-way-conversations")
            expect(remove).to_be_disabled()  # it is being read
        sheet.get_by_text(re.compile(r"my-way: done. loss \d")).wait_for(timeout=120000)
        expect(remove).to_be_enabled()
        page.screenshot(path=screens / "learning.png")
        sets = box.admin("data.list")["data_sets"]
        assert [(s["name"], s["person"], s["records"]) for s in sets] == [("my-way-conversations", "Liv", 1)]
        page.reload()  # who comes back sees it
        page.get_by_role("button", name="Settings").click()
        sheet.get_by_role("button", name="Use my-way").click(timeout=240000)
        sheet.get_by_role("button", name="Use my-way").wait_for(state="detached")
        chosen = [c["adapter"] for c in box.admin("adapters.list")["choices"] if c["person"] == "Liv"]
        assert chosen == ["my-way"]
        other = paired("Nan")
        other.get_by_role("button", name="Settings").click()
        other.get_by_text("Trust this box").wait_for()
        assert other.get_by_label("Learn from").count() == 0 and "my-way" not in other.content()
    finally:
        box.admin("conversations.delete", person="Liv", id=box.conversation("Liv")["id"])
    assert box.admin("adapters.list")["adapters"] == [] and box.admin("data.list")["data_sets"] == []


def test_steady_answers_repeat(endless, box):
    page = endless("Sue")
    page.get_by_role("button", name="Settings").click()
    for choice in ("Varied", "Steady"):
        page.get_by_label(choice).check()
        page.reload()
        page.get_by_role("button", name="Settings").click()
        assert page.get_by_label(choice).is_checked()
    page.keyboard.press("Escape")
    wait_count(page, "dialog", 0)
    for n in (1, 2):
        say(page, LONG)  # a short answer may be the same anyway
        wait_writing(page, 200)
        page.get_by_role("button", name="Stop the answer").click()
        wait_done(page)
        page.get_by_role("button", name="New conversation").click()
        wait_count(page, ".row", n)
        wait_count(page, ".turn", 0)
    said = [box.admin("conversations.show", person="Sue", id=c["id"])["conversation"]["turns"][1]["text"]
            for c in box.admin("conversations.list", person="Sue")["conversations"]]
    n = min(map(len, said))
    assert n >= 200 and said[0][:n] == said[1][:n]


def test_light_and_dark(paired):
    assert background(paired("Quin")) > 200
    page = paired("Quin", color_scheme="dark")
    assert background(page) < 50
    page.get_by_role("button", name="Switch to light").click()
    page.get_by_role("button", name="Switch to dark").wait_for()
    assert background(page) > 200
    page.reload()
    page.get_by_role("button", name="Switch to dark").wait_for()
    assert background(page) > 200


CONTRAST = """() => {
    const style = getComputedStyle(document.documentElement);
    const light = (name) => {
        const hex = style.getPropertyValue(name).trim();
        const [r, g, b] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255)
            .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const out = {};
    for (const [ink, grounds] of Object.entries({
        "--text": ["--bg", "--side", "--raised", "--bubble", "--code", "--accent-soft"],
        "--muted": ["--bg", "--side", "--raised", "--code", "--accent-soft", "--line"],
        "--accent": ["--bg", "--raised", "--code"],
        "--on-accent": ["--accent"],
        "--bad": ["--bad-soft", "--bg", "--raised"],
    })) for (const ground of grounds) {
        const [a, b] = [light(ink), light(ground)].sort((x, y) => y - x);
        out[`${ink} on ${ground}`] = (a + 0.05) / (b + 0.05);
    }
    return out;
}"""


def test_contrast(open_page):
    for scheme in ("light", "dark"):
        ratios = open_page(color_scheme=scheme).evaluate(CONTRAST)
        assert {k: round(v, 2) for k, v in ratios.items() if not v >= 4.5} == {}, scheme


SMALL = """(least) => [...document.querySelectorAll('button, select, textarea, summary, input, a.button')]
    .filter((e) => e.checkVisibility({ visibilityProperty: true }) && !e.closest('[inert]'))
    .map((e) => [e.getAttribute('aria-label') ?? e.textContent, e.getBoundingClientRect()])
    .filter(([, r]) => Math.round(r.width) < least || Math.round(r.height) < least)
    .map(([name, r]) => `${name} ${r.width}x${r.height}`)"""


def check_phone(page):
    assert page.evaluate(SMALL, ROOM_PX) == []
    wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth, visualViewport.scale]")
    assert wide[0] <= 390 and wide[1] == 390 and wide[2] == 1, wide
    inner = """[...document.querySelectorAll('.scroller, .list, dialog, .drawer')]
        .filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.className)"""
    assert page.evaluate(inner) == []


def test_on_a_phone(open_page, box):
    page = open_page(**PHONE)
    check_phone(page)
    page.goto(box.pair("Ann"))
    page.get_by_role("button", name="Pair", exact=True).wait_for()
    check_phone(page)
    page.get_by_role("button", name="Pair", exact=True).click()
    page.get_by_label("Message to Hearth").wait_for()
    check_phone(page)
    say(page, QUESTION)
    wait_done(page)
    page.wait_for_timeout(300)
    check_phone(page)
    page.get_by_role("button", name="Conversations").click()
    page.get_by_role("button", name="Settings").wait_for()
    page.wait_for_timeout(300)
    check_phone(page)
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("button", name="Sign out").wait_for()
    check_phone(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Rename or delete this conversation").click()
    page.get_by_label("Name", exact=True).wait_for()
    check_phone(page)


def test_on_a_phone_enter_breaks_the_line(paired):
    page = paired(**PHONE)
    area = page.get_by_label("Message to Hearth")
    area.tap()
    area.press_sequentially("one")
    page.keyboard.press("Enter")
    area.press_sequentially("two")
    assert area.input_value() == "one\ntwo" and page.locator(".turn").count() == 0


def test_wide_content_scrolls_by_itself(paired):
    """Code and tables from a model are wider than a phone."""
    page = paired(**PHONE)
    page.evaluate("""() => {
        const turns = document.querySelector('.turns');
        const turn = document.createElement('article');
        turn.className = 'turn answer';
        const body = document.createElement('div');
        body.className = 'body';
        const box = document.createElement('div');
        box.className = 'codebox';
        const pre = document.createElement('pre');
        pre.textContent = 'x'.repeat(400);
        box.append(pre);
        const long = document.createElement('p');
        long.textContent = 'y'.repeat(400);
        body.append(box, long);
        turn.append(document.createElement('div'), body);
        turns.append(turn);
    }""")
    check_phone(page)


def test_learning_on_a_phone(paired, screens):
    """Its form fits a narrow page and a finger."""
    page = paired("Kai", scopes=["chat", "train"], **PHONE)
    say(page, "Say one word.")
    wait_done(page)
    page.get_by_role("button", name="Conversations").click()
    page.get_by_role("button", name="Settings").click()
    sheet = page.get_by_role("dialog")
    sheet.get_by_label("Name").fill("thumb")
    sheet.get_by_role("button", name="Start").scroll_into_view_if_needed()
    page.screenshot(path=screens / "phone-learning.png")
    check_phone(page)


def test_a_data_set_is_deleted_on_a_phone(paired, box, screens, tmp_path):
    """One's own, after a question; the box's are not offered."""
    page = paired("Uma", scopes=["chat", "train"], **PHONE)
    say(page, "Say one word.")
    wait_done(page)
    (tmp_path / "notes.txt").write_text("plain words\n")
    assert command(box, "data", "import", "house", tmp_path / "notes.txt").returncode == 0
    try:
        for name in ("walks", "a-long-name-of-fifty-letters-that-has-to-find-its-room"):
            done = command(box, "data", "import", name, "--conversations", "--person", "Uma")
            assert done.returncode == 0, done.stderr
        page.get_by_role("button", name="Conversations").click()
        page.get_by_role("button", name="Settings").click()
        sheet, row = page.get_by_role("dialog"), page.locator(".sets li")
        remove = sheet.get_by_role("button", name="Delete walks")
        remove.scroll_into_view_if_needed()
        assert row.count() == 2 and "house" not in sheet.get_by_role("list").inner_text()
        assert "1 conversation" in row.nth(0).inner_text()
        check_phone(page)
        page.screenshot(path=screens / "phone-data-sets.png")
        remove.click()
        sheet.get_by_text("“walks” is erased from the box").wait_for()
        check_phone(page)
        page.screenshot(path=screens / "phone-delete.png")
        sheet.get_by_role("button", name="Cancel").click()
        remove.click()  # back where it was, nothing gone
        assert len(box.admin("data.list")["data_sets"]) == 3
        sheet.get_by_role("button", name="Delete", exact=True).click()
        wait_count(page, ".sets li", 1)
        assert sorted(s["name"][:6] for s in box.admin("data.list")["data_sets"]) == ["a-long", "house"]
        sheet.get_by_role("button", name="Delete a-long").click()
        sheet.get_by_role("button", name="Delete", exact=True).click()
        wait_count(page, ".sets", 0)
        sheet.get_by_label("Learn from").wait_for()
    finally:
        assert command(box, "data", "rm", "house").returncode == 0
    assert box.admin("data.list")["data_sets"] == []


def test_the_drawer_gives_the_focus_back(paired):
    page = paired(**PHONE)
    page.get_by_role("button", name="Conversations").click()
    page.wait_for_function("() => document.activeElement.classList.contains('new')")
    page.keyboard.press("Escape")
    page.wait_for_function("() => document.activeElement.id === 'menu'")
    page.wait_for_function("() => document.querySelector('#menu').ariaExpanded === 'false'")


def test_it_opens_while_the_box_is_away(paired, box, open_page):
    """The page's own files are kept on the device; it says that the box cannot be reached."""
    open_page.allowed += ["WebSocket connection to", "Failed to load resource"]
    page = paired("Rob")
    page.evaluate("navigator.serviceWorker.ready.then(() => 0)")
    page.reload()
    page.locator(".link.online").wait_for()
    box.stop()
    try:
        page.reload()
        page.get_by_text("No connection").wait_for()
    finally:
        box.start()
    started = time.monotonic()
    page.locator(".link.online").wait_for(timeout=60000)
    assert time.monotonic() - started < 45


def test_pictures_of_the_page(paired, screens):
    """BUILD/screens: docs/screenshot.png and docs/screenshot-phone.png come from here."""
    page = paired("Ada")
    for question in ("Why is the sky red at dusk?", "Give me three tips for lighting a fire."):
        say(page, question)
        wait_done(page)
        page.get_by_role("button", name="New conversation").click()
        wait_count(page, ".turn", 0)
    say(page, "Show me how to say hello in Python.")
    wait_done(page)
    say(page, QUESTION)
    wait_done(page, 2)
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(0, 0)
    page.screenshot(path=screens / "desktop.png")
    page.get_by_role("button", name="Switch to dark").click()
    page.get_by_role("button", name="Switch to light").wait_for()
    page.screenshot(path=screens / "desktop-dark.png")
    phone = paired("Ada", **PHONE)
    phone.screenshot(path=screens / "phone-new.png")
    phone.get_by_role("button", name="Conversations").click()
    phone.locator(".row-open").first.click()
    phone.locator(".answer .usage").nth(1).wait_for()
    phone.wait_for_timeout(400)
    phone.screenshot(path=screens / "phone.png")
    phone.get_by_role("button", name="Conversations").click()
    phone.get_by_role("button", name="Settings").wait_for()
    phone.wait_for_timeout(400)
    phone.screenshot(path=screens / "phone-list.png")
    assert {"desktop.png", "phone.png"} <= {file.name for file in screens.iterdir()}
