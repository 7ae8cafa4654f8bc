"""The page at `/`, in a real browser against a live server."""

import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.model

# WebDriver's codes for keys
BACKSPACE, TAB, ENTER, SHIFT, ESCAPE = "\ue003", "\ue004", "\ue007", "\ue008", "\ue00c"
SOURCES = ("prompt", "memory", "guess", "plain")
WAIT_SECONDS = 30.0
QUESTION = "What is a ferry?"
REPEAT = "Repeat word for word: the quick brown fox jumps over the lazy dog, and the dog sleeps on."

# Keeps what the page asks and what it is answered; `extra` adds fields to what it asks.
RECORDER = """
const fetchReally = window.fetch;
window.recorded = [];
window.fetch = async (address, options = {}) => {
  const body = options.body && JSON.stringify({ ...JSON.parse(options.body), ...window.extra });
  const response = await fetchReally(address, { ...options, body });
  const text = response.clone().text().catch(() => "");
  window.recorded.push({ address, headers: options.headers, body, text });
  return response;
};
"""

# Answers the page's questions with these pieces, a character for each byte; without any, the network fails.
FAKE_ANSWER = """
const pieces = arguments[0];
window.fetch = async () => {
  if (!pieces.length) throw new TypeError("Failed to fetch");
  const body = new ReadableStream({
    start(controller) {
      for (const piece of pieces) controller.enqueue(Uint8Array.from(piece, (one) => one.charCodeAt(0)));
      controller.close();
    },
  });
  return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
};
"""

# Returns texts whose contrast with what is behind them is below WCAG's AA.
FAINT_TEXTS = """
const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
const light = (colour) => {
  const [red, green, blue] = colour.match(/[\\d.]+/g).map((part) => linear(part / 255));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor;
    if (!/, 0\\)$/.test(colour)) return colour;
  }
};
const faint = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest("script")) continue;
  const lights = [light(getComputedStyle(element).color), light(behind(element))];
  const contrast = (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
  if (contrast < 4.5) faint.push(walker.currentNode.data);
}
return faint;
"""

# Returns what reaches beyond the right edge.
TOO_WIDE = """
const edge = document.documentElement.clientWidth;
const isWide = (element) => element.checkVisibility() && element.getBoundingClientRect().right > edge + 0.5;
const wide = Array.from(document.body.querySelectorAll("*")).filter(isWide).map((one) => one.outerHTML);
return document.documentElement.scrollWidth > edge ? ["the page", ...wide] : wide;
"""


class Page:
    """The page in a browser.

    Args:
        driver: Selenium's, with the page loaded.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def element(self, name: str) -> Any:
        return self.driver.find_element("id", name)

    def text(self, name: str) -> str:
        return self.script("return document.getElementById(arguments[0]).textContent", name)

    def value(self, name: str) -> str:
        return self.script("return document.getElementById(arguments[0]).value", name)

    def script(self, code: str, *given: Any) -> Any:
        return self.driver.execute_script(code, *given)

    def each(self, selector: str, value: str = "one.textContent") -> list[Any]:
        """Return a value, an expression of `one`, of each element that a selector finds."""
        code = f"return Array.from(document.querySelectorAll(arguments[0]), (one) => {value})"
        return self.script(code, selector)

    def press(self, *keys: str) -> None:
        """Press keys where the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def fill(self, name: str, value: str) -> None:
        """Fill a field of the settings."""
        self.script("document.getElementById(arguments[0]).value = arguments[1]", name, value)

    def ask(self, question: str, *, max_tokens: int = 16) -> None:
        """Send a question and wait for its answer, or for an error."""
        self.fill("max-tokens", str(max_tokens))
        self.element("prompt").send_keys(question, ENTER)
        self.wait()

    def wait(self) -> None:
        until(lambda: not self.is_running)

    def fake(self, stream: str, *, piece_bytes: int = 4096) -> None:
        """Let each question be answered by a stream, in pieces; an empty one is a network that fails."""
        sent = stream.encode()
        pieces = [
            sent[begin : begin + piece_bytes].decode("latin-1") for begin in range(0, len(sent), piece_bytes)
        ]
        self.script(FAKE_ANSWER, pieces)

    @property
    def is_running(self) -> bool:
        return self.each("#messages", "one.getAttribute('aria-busy')") == ["true"]

    @property
    def spans(self) -> list[list[str]]:
        """The tokens of the latest answer: each with its source and its text."""
        return self.each(".exchange:last-child [data-source]", "[one.dataset.source, one.textContent]")

    @property
    def answers(self) -> list[str]:
        return self.each(".answer")

    @property
    def request(self) -> dict[str, Any]:
        """The page's latest request: its address, headers and body."""
        return self.script(
            "const { address, headers, body } = recorded.at(-1); return { address, headers, body }"
        )

    @property
    def chunks(self) -> list[dict[str, Any]]:
        """The chunks of the latest answer, as the server sent them."""
        text = self.driver.execute_async_script("recorded.at(-1).text.then(arguments[0])")
        lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")]
        return [json.loads(line) for line in lines]

    def console_errors(self) -> list[str]:
        """Return the errors in the browser's console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


def until(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    browser, service = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None:
        pytest.skip("chromium is not installed")
    if service is None:
        pytest.skip("chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,860"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    made.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": RECORDER})
    yield made
    made.quit()


@pytest.fixture
def page(driver: Any, server_url: str) -> Iterator[Page]:
    """The page, freshly loaded. The test fails if the browser's console has an error at the end."""
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    prefer(driver, "light")
    driver.get(f"{server_url}/")
    made = Page(driver)
    until(lambda: made.text("model"))
    yield made
    made.script("localStorage.clear()")
    assert made.console_errors() == []


def prefer(driver: Any, scheme: str) -> None:
    """Let the system prefer light or dark colours."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def sse(*events: dict[str, Any]) -> str:
    return "".join(f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events)


def token(text: str, source: str = "plain", forward: int = 1) -> dict[str, Any]:
    delta = {"content": text} if text else {}
    return {"choices": [{"delta": delta}], "lookahead": {"source": source, "forward": forward}}


def end(**seconds: float) -> str:
    given = dict.fromkeys(("queued", "prompt", "decode", "draft", "model", "choose"), 0.0) | seconds
    finish = {"choices": [{"delta": {}, "finish_reason": "stop"}], "lookahead": {"seconds": given}}
    return sse(finish) + "data: [DONE]\n\n"


def told(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the chunks that tell of a token."""
    return [chunk for chunk in chunks if "source" in chunk.get("lookahead", {})]


def test_an_answer_is_shown_token_by_token_with_its_sources(page):
    page.ask(REPEAT, max_tokens=24)
    chunks = page.chunks
    tokens = [
        [chunk["lookahead"]["source"], chunk["choices"][0]["delta"].get("content", "")]
        for chunk in told(chunks)
    ]
    assert page.spans == tokens
    assert {source for source, _ in page.spans} <= set(SOURCES)
    assert page.answers == ["".join(text for _, text in tokens)] != [""]
    assert len(tokens) == chunks[-1]["usage"]["completion_tokens"]


def test_figures_are_those_of_the_answer(page):
    page.ask(REPEAT, max_tokens=24)
    tokens = [chunk["lookahead"] for chunk in told(page.chunks)]
    passes = {entry["forward"] for entry in tokens}
    assert page.text("tokens-per-forward") == f"{len(tokens) / len(passes):.2f}"
    assert float(page.text("tokens-per-second")) > 0
    counts = Counter(entry["source"] for entry in tokens)
    shown = page.each("#sources tr", "one.cells[1].textContent")
    assert shown == [str(counts[source]) for source in SOURCES]
    assert f"{len(tokens)} tokens in {len(passes)} forward passes" in page.text("status")


def test_the_time_bar_appears_at_the_end(page):
    assert not page.element("time-bar").is_displayed()
    page.ask(REPEAT)
    assert page.element("time-bar").is_displayed()
    widths = page.each("#time-bar i", "one.offsetWidth")
    assert widths
    assert all(width > 0 for width in widths)
    rows = page.each("#times tr")
    assert len(rows) == 6
    assert all(re.search(r"\d m?s", row) for row in rows)


def test_times_add_up_though_steps_contain_the_reading_of_the_prompt(page):
    seconds = {"queued": 1.0, "prompt": 2.0, "decode": 6.0, "draft": 1.0, "model": 5.0, "choose": 1.5}
    page.fake(sse(token("a", forward=1), token("b", forward=2)) + end(**seconds))
    page.ask(QUESTION)
    shown = page.each("#times tr", "one.cells[1].textContent")
    assert shown == ["1.00 s", "2.00 s", "1.00 s", "3.00 s", "1.50 s", "500 ms"]
    assert page.text("tokens-per-second") == "0.2"  # the second token took 6 seconds


def test_escape_stops(page):
    page.script("window.extra = { ignore_eos: true }")
    page.fill("max-tokens", "4000")
    page.element("prompt").send_keys("Count for ever.", ENTER)
    until(lambda: len(page.spans) > 2)
    assert page.is_running
    page.press(ESCAPE)
    page.wait()
    assert len(page.spans) < 4000
    assert page.text("status").startswith("Stopped")
    assert page.element("send").is_displayed()
    stopped = page.answers[0]
    page.script("window.extra = {}")
    page.ask("Go on.", max_tokens=8)
    messages = json.loads(page.request["body"])["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == stopped


@pytest.mark.parametrize("max_tokens", [0, 10**8])
def test_a_refusal_is_shown_and_the_question_is_kept(page, max_tokens):
    page.ask(QUESTION, max_tokens=max_tokens)
    assert "tokens" in page.text("error")
    assert page.element("error").get_attribute("role") == "alert"
    assert page.value("prompt") == QUESTION
    errors = page.console_errors()
    assert len(errors) == 1
    assert "400" in errors[0]
    page.fill("max-tokens", "8")
    page.element("prompt").send_keys(ENTER)
    page.wait()
    assert page.text("error") == ""
    assert page.spans


def test_an_unreachable_server_is_told_and_the_question_is_kept(page):
    page.fake("")
    page.ask(QUESTION)
    assert page.text("error") == "The server cannot be reached."
    assert page.value("prompt") == QUESTION


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (sse({"error": {"message": "no more"}}) + "data: [DONE]\n\n", "no more"),
        ("", "The answer broke off: the server closed the connection."),
    ],
    ids=["error", "closed"],
)
def test_an_answer_that_breaks_off_stays_with_its_error(page, last, message):
    page.fake(sse(token("Half"), token(" an answer", "memory")) + last)
    page.ask(QUESTION)
    assert page.text("error") == message
    assert page.answers == ["Half an answer"]
    assert page.each(".question") == [QUESTION]


def test_events_may_be_cut_anywhere(page):
    tokens = [("plain", "ferr", 7), ("prompt", "", 7), ("guess", "😀 y", 9), ("plain", "…", 9)]
    events = sse(*(token(text, source, forward) for source, text, forward in tokens))
    page.fake(f": ping\n\n{events}: ping\n\n{end(decode=1.0)}", piece_bytes=5)
    page.ask(QUESTION)
    assert page.text("error") == ""
    assert page.spans == [[source, text] for source, text, _ in tokens]
    assert page.text("tokens-per-forward") == "2.00"


def test_text_is_never_html(page):
    markup = "<b>bold</b><img src=x onerror=alert(1)>"
    page.fake(sse(token("<b>bo"), token("ld</b>")) + end())
    page.ask(markup)
    assert page.each(".question") == [markup]
    assert page.answers == ["<b>bold</b>"]
    assert page.each(".exchange b, .exchange img") == []


def test_code_is_set_as_code(page):
    texts = ["So:\n", "```", "py\n", "x\n", "```", "\n\n", "End ", "```", "y"]
    page.fake(sse(*map(token, texts)) + end())
    page.ask("Show ```x = 1``` again")
    assert page.each(".question .code") == ["```x = 1```"]
    assert page.each(".answer .code") == ["```py\nx\n```\n\n", "```y"]
    assert [text for _, text in page.spans] == texts


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_is_legible(page, scheme):
    prefer(page.driver, scheme)
    size = {"width": 360, "height": 640, "deviceScaleFactor": 1, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.script("document.getElementById('settings').open = true")
    assert page.script(TOO_WIDE) == page.script(FAINT_TEXTS) == []
    tokens = [token(f" {source}{'x' * 160}", source, number) for number, source in enumerate(SOURCES)]
    page.fake(sse(*tokens) + end(prompt=0.5, decode=1.0, model=0.7))
    page.ask("y" * 300)
    assert page.element("time-bar").is_displayed()
    figures, composer = (page.element(name).rect for name in ("figures", "composer"))
    assert figures["y"] + figures["height"] <= composer["y"]  # the page follows the answer
    assert page.script(TOO_WIDE) == page.script(FAINT_TEXTS) == []
    page.fake("")
    page.ask(QUESTION)  # an error
    assert page.script(TOO_WIDE) == page.script(FAINT_TEXTS) == []


def test_the_keyboard_is_enough(page):
    size = {"width": 1280, "height": 480, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    focused = "return document.activeElement.id || document.activeElement.localName"
    page.press("First line", SHIFT + ENTER + SHIFT, "second line")  # the prompt has the focus
    assert page.value("prompt") == "First line\nsecond line"
    reached: list[str] = []
    while "api-key" not in reached:
        page.press(TAB)
        reached.append(page.script(focused))
        if reached[-1] == "summary":
            page.press(ENTER)
        if reached[-1] == "max-tokens":
            page.press(BACKSPACE * 3, "8")
    assert reached == ["send", "summary", "temperature", "max-tokens", "namespace", "api-key"]
    for _ in reached:
        page.press(SHIFT + TAB + SHIFT)
    page.press(ENTER)
    page.wait()
    assert page.spans
    asked = json.loads(page.request["body"])
    assert asked["messages"] == [{"role": "user", "content": "First line\nsecond line"}]
    assert asked["max_tokens"] == 8
    for name in ("aside", "theme", "clear"):  # in a low window the figures scroll
        page.press(SHIFT + TAB + SHIFT)
        assert page.script(focused) == name
        assert page.script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press(ENTER)
    assert page.answers == []
    assert page.script(focused) == "prompt"


def test_a_suggestion_is_asked(page):
    page.fill("max-tokens", "8")
    page.driver.find_element("css selector", "#suggestions button").click()
    page.wait()
    assert page.spans
    assert not page.element("intro").is_displayed()
    page.element("clear").click()
    assert page.element("intro").is_displayed()
    assert not re.search(r"\d", page.text("tokens-per-forward"))


def test_the_theme_is_kept(page):
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = page.script(ground)
    page.element("theme").click()
    dark = page.script(ground)
    assert dark != light
    page.driver.refresh()
    assert page.script(ground) == dark
    page.element("theme").click()
    assert page.script(ground) == light


def test_the_key_is_sent_and_stored_nowhere(page):
    page.fill("api-key", "secret-key-1")
    page.fill("namespace", "mine")
    page.ask(QUESTION, max_tokens=4)
    assert page.request["headers"]["Authorization"] == "Bearer secret-key-1"
    assert json.loads(page.request["body"])["lookahead"] == {"sources": True, "namespace": "mine"}
    stored = page.script(
        "return JSON.stringify([{ ...localStorage }, { ...sessionStorage }]) + document.cookie"
    )
    assert "secret" not in stored


def test_the_beginning_and_the_end_of_an_answer_are_announced(page):
    page.script(
        "const status = document.getElementById('status'); window.said = [];"
        "new MutationObserver(() => said.push(status.textContent)).observe(status, { childList: true })"
    )
    page.ask(REPEAT, max_tokens=8)
    assert [text[:8] for text in page.script("return said")] == ["Answerin", "Answered"]
    assert page.each("[aria-live], [role=log]") == []
