"""The worklist page: what it says, that nothing a peer sent becomes markup, and that a real browser shows it."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.browser import Browser, running_browser
from tests.support.web import RunningServer, Ward, make_config, running_server
from triage.config.schema import Web

VIEWER = "https://viewer.example/view?StudyInstanceUIDs={study_instance_uid}"


@pytest.fixture
def ward(tmp_path: Path) -> Ward:
    return Ward(make_config(tmp_path, web=Web(viewer_url=VIEWER)))


@pytest.fixture
def server(ward: Ward) -> Iterator[RunningServer]:
    with running_server(ward) as running:
        yield running


class _Table(HTMLParser):
    """Reads the table's rows as lists of words."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.headings: list[str] = []
        self._cell: list[str] | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "th"} and self._cell is not None:
            (self.rows[-1] if tag == "td" else self.headings).append(" ".join(" ".join(self._cell).split()))
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)


def fill(ward: Ward) -> None:
    """Twenty-eight studies of every kind."""
    names = ("Doe^Jane", "Müller^Jörg^^Dr", "Yamada^Tarou=山田^太郎", "O'Neil^Sean", "García-López^María")
    reasons = (
        "only a lateral view was sent; a frontal one is needed",
        "bone kernel series only: send the soft-tissue reconstruction",
        "unlike anything the model was calibrated on",
    )
    for i, name in enumerate(names):
        ward.reported(99.97 - i * 1.3, ago_s=300 + i * 500, name=name, modality=("CR", "DX", "CT")[i % 3])
        ward.scored(93.2 - i * 2, ago_s=900 + i * 300, name=name, modality="DX")
        ward.scored(60.0 - i * 11, ago_s=2000 + i * 700, name=name, modality="CR")
    for i, reason in enumerate(reasons):
        ward.unsuitable(reason, ago_s=1500 + i * 1100, name=names[i], modality="CT")
    ward.failed("the score worker did not answer within 120 s, 5 times", ago_s=4000, name=names[4])
    for i in range(3):
        ward.receive(ago_s=5 + i * 12, modality="CT", name=names[i])
    late = ward.scored(12.0, ago_s=ward.config.rank.max_wait_s + 1900, name="Long^Wait")
    ward.unsuitable("a localizer only", ago_s=ward.config.rank.max_wait_s + 60, name="Also^Late", modality="CT")
    stat = ward.scored(41.0, ago_s=40, name="Trauma^Unknown", modality="CT")
    ward.ledger.stat(stat.study_instance_uid, "Dr Roe")
    ward.ledger.claim(stat.study_instance_uid, "Dr Roe")
    # A late image: the study is received again and keeps what was known of it.
    again = ward.reported(97.5, ago_s=2600, name="Late^Image")
    ward.receive(ago_s=20, name="Late^Image", uid=again.study_instance_uid)
    # Another that can't be scored with the first ones: what lifted the study stays.
    again = ward.reported(98.5, ago_s=2700, name="Late^Double")
    ward.unsuitable("several slices lie at the same position", name="Late^Double", uid=again.study_instance_uid)
    ward.noted("27 of 28 slices of the series; <b>5 mm</b>", name="Noted^Study")
    assert late.current


def test_the_page_shows_the_worklist_in_rank_order(ward: Ward, server: RunningServer) -> None:
    fill(ward)
    # A late image that looks normal: the study stays where it was, and says what it scores now.
    again = ward.reported(96.5, ago_s=2800, name="Late^Normal")
    ward.scored(12.0, name="Late^Normal", uid=again.study_instance_uid)
    with server.browser() as browser:
        page = browser.get("/").text
        items = browser.get("/api/worklist").json()["items"]
    table = _Table(page)
    rows = [row for row in table.rows if row]
    assert table.headings[:11] == [
        "Rank",
        "Priority",
        "Patient",
        "Accession",
        "Mod.",
        "Study date",
        "State",
        "Reason, notes",
        "Percentile",
        "Waiting",
        "Model",
    ]
    assert [row[3] for row in rows] == [item["accession_number"] for item in items]
    assert [row[0] for row in rows] == [str(i) for i in range(1, len(items) + 1)]
    assert rows[0][1:3] == ["STAT LOW · unflagged", "Trauma, Unknown P0025"]
    assert "claimed by Dr Roe" in rows[0][6]
    assert rows[1][9] == "4 h 31 min overdue"
    by_name = {row[2]: row for row in rows}
    assert by_name["Doe, Jane P0001"][8] == "99.9"
    assert by_name["Doe, Jane P0001"][1] == "HIGH"
    assert by_name["Late, Image P0026"][6].startswith("receiving revision 2")
    assert by_name["Late, Image P0026"][1] == "HIGH of an earlier score"
    doubles = next(row for row in rows if row[2].startswith("Late, Double"))
    assert (doubles[1], doubles[7]) == ("HIGH of an earlier score", "several slices lie at the same position")
    assert doubles[8] == "98.5"
    normal = next(row for row in rows if row[2].startswith("Late, Normal"))
    assert (normal[1], normal[8]) == ("HIGH of an earlier score", "96.5 now 12.0")
    assert normal[7] == "HIGH of an earlier score stays; percentile now 12.0"
    noted = next(row for row in rows if row[2].startswith("Noted, Study"))
    assert noted[7] == "27 of 28 slices of the series; <b>5 mm</b>"
    assert {row[1] for row in rows if row[6] == "unsuitable"} == {"NOT SCORED"}
    assert all(row[7] for row in rows if row[6] in {"unsuitable", "failed"})
    assert f'href="{VIEWER.replace("{study_instance_uid}", items[0]["study_instance_uid"])}"' in page


@pytest.mark.parametrize(
    "words",
    [
        "Research use only",
        "Prioritization only, not diagnostic",
        "An unflagged study is <em>not</em> normal",
        "removes no study",
        "not scored keeps its place",
        "calibrated against cxr-starter reference, 400 images",
        "models list</code> shows what each must not be used for",
    ],
)
def test_the_page_says_what_it_must(ward: Ward, server: RunningServer, words: str) -> None:
    ward.scored(50)
    with server.browser() as browser:
        assert words in browser.get("/").text


def test_nothing_a_peer_sent_becomes_markup(ward: Ward, server: RunningServer) -> None:
    # Of a name only what is before the first "=" is shown; a reason is shown whole.
    evil = "<script>alert(1)</script>^\"><img src>^'{{7*7}}"
    ward.unsuitable("</td><script>alert(2)</script>\"><img src=x onerror=alert(1)>'{{7*7}}", name=evil)
    ward.reported(99, name="javascript:alert(3)")
    with server.browser("<b>Eve</b>") as browser:
        page = browser.get("/").text
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "<b>Eve" not in page
    [row] = [row for row in _Table(page).rows if row and "alert(1)" in row[2]]
    assert "{{7*7}}" in row[2]
    assert "{{7*7}}" in row[7]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not re.search(r"<[^>]+\son\w+\s*=", page)
    assert not re.search(r"(href|src|action)=\"javascript:", page)
    # The content policy allows no inline script or style, so the page must have none.
    assert re.findall(r"<script[^>]*>", page) == ['<script src="/static/worklist.js" defer>']
    assert "style=" not in page


def test_without_a_script_the_page_reloads_itself_and_its_forms_work(ward: Ward, server: RunningServer) -> None:
    uid = ward.scored(50).study_instance_uid
    with server.browser() as browser:
        assert '<noscript><meta http-equiv="refresh" content="30"></noscript>' in browser.get("/").text
        answer = browser.post(f"/api/studies/{uid}/claim", headers={"Accept": "text/html"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert "claimed by Dr Roe" in browser.get("/").text
    with server.client(headers={"Accept": "text/html"}) as stranger:
        assert stranger.post(f"/api/studies/{uid}/claim").headers["location"] == "/login"


def test_what_was_done_by_mistake_is_undone_where_it_is_listed(ward: Ward, server: RunningServer) -> None:
    read, gone = (ward.scored(percentile).study_instance_uid for percentile in (50, 60))
    ward.ledger.mark_read(read, "Dr Roe")
    ward.ledger.discard(gone, "operator", "sent by mistake")
    with server.browser() as browser:
        for state, uid, undo in (("read", read, "complete?off=true"), ("discarded", gone, "requeue")):
            assert f'action="/api/studies/{uid}/{undo}"' in browser.get("/", params={"state": state}).text
            browser.post(f"/api/studies/{uid}/{undo}", headers={"Accept": "text/html"})
        listed = browser.get("/").text
    assert read in listed
    assert gone in listed


def test_filters_and_parts(ward: Ward, server: RunningServer) -> None:
    for i in range(103):
        ward.receive(ago_s=1000 - i, modality="CT" if i == 50 else "CR")
    with server.browser() as browser:
        first = browser.get("/").text
        following = re.search(r'href="(/\?[^"]*)" rel="next"', first)
        assert following is not None
        rest = browser.get(following[1].replace("&amp;", "&")).text
        filtered = browser.get("/", params={"modality": "CT", "state": "receiving"}).text
        assert browser.get("/", params={"state": "lost"}).status_code == 422
        empty = browser.get("/", params={"state": "read"}).text
    assert [row[0] for row in _Table(first).rows if row] == [str(i) for i in range(1, 101)]
    assert [row[0] for row in _Table(rest).rows if row] == ["101", "102", "103"]
    assert [row[4] for row in _Table(filtered).rows if row] == ["CT"]
    assert "<option selected>CT</option>" in filtered
    assert "No study here." in empty


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with running_browser(tmp_path / "browser") as running:
        yield running


def _log_in(browser: Browser, server: RunningServer) -> None:
    browser.go(f"{server.url}/login")
    browser.type("Dr Roe")
    browser.run("document.getElementById('token').focus()")
    browser.type(server.token)
    browser.press("Enter")
    browser.wait("document.title === 'Worklist · triage-node' && document.readyState === 'complete'")


def test_a_browser_shows_the_page(ward: Ward, server: RunningServer, browser: Browser, tmp_path: Path) -> None:
    fill(ward)
    _log_in(browser, server)
    assert browser.run("document.querySelectorAll('tr.study').length") == 28
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(14, 19, 24)"
    # All columns fit: nobody should have to scroll sideways for the reason or the buttons.
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    # Nor where one study has a number without an end, such as a pseudonym.
    ward.scored(99, name="X" * 64, number="0123456789abcdef" * 4)
    browser.wait("document.querySelectorAll('tr.study').length === 29")
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    picture = tmp_path / "worklist.png"
    picture.write_bytes(browser.picture())
    assert picture.stat().st_size > 50_000


def test_the_page_follows_the_ledger_by_itself(ward: Ward, server: RunningServer, browser: Browser) -> None:
    ward.receive(ago_s=100)
    _log_in(browser, server)
    # Written by the script once the event stream is open: the content policy lets our own script through.
    browser.wait("document.getElementById('connection').textContent === 'live'")
    browser.run("window.sameDocument = true")
    ward.scored(99, name="New^Patient")
    browser.wait("document.querySelector('tr.study').innerText.includes('New, Patient')")
    assert browser.run("document.querySelector('tr.study .chip').textContent") == "HIGH"
    assert browser.run("window.sameDocument")


def test_the_page_is_usable_by_keyboard(ward: Ward, server: RunningServer, browser: Browser) -> None:
    first, second = ward.receive(ago_s=200), ward.receive(ago_s=100)
    _log_in(browser, server)
    for key in "jj":
        browser.press(key)
    assert browser.run("document.activeElement.dataset.key") == second.study_instance_uid
    browser.press("c")
    browser.wait("document.activeElement.innerText.includes('claimed by Dr Roe')")
    browser.press("s")
    browser.wait("document.querySelector('tr.study .chip.stat') !== null")
    # The study moved up, and the focus went with it.
    assert browser.run("document.activeElement.dataset.key") == second.study_instance_uid
    assert browser.run("document.activeElement.querySelector('.rank').textContent") == "1"
    assert ward.ledger.study(second.study_instance_uid).stat
    assert not ward.ledger.study(first.study_instance_uid).stat
