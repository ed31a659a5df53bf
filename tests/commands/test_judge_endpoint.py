"""A language model judges: a real server on loopback speaks the protocol, and breaks it in every way."""

import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dselect.cli import app
from dselect.errors import DselectError, UsageError
from dselect.judging.asking import QUESTIONS, Answers, Bias, Votes, criterion_of, judgment, vote
from dselect.judging.endpoint import Endpoint, Refused, address_of
from dselect.judging.judgments import Side
from tests.conftest import lines, read_records

KEY = "sk-test-0123456789"
SHOWN = re.compile(r"begin of text A\]\n(.*?)\n\[end.*begin of text B\]\n(.*?)\n\[end", re.DOTALL)


class Server(ThreadingHTTPServer):
    """Prefers the text with the larger number, and where they are near the one shown first.

    faults: what to do to the next requests, before answers: a status, or drop, slow, garbage, empty.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.requests, self.several, self.key, self.lock = [], [], True, KEY, threading.Lock()
        self.at_once = self.most_at_once = 0
        self.answer = by_number
        self.pause = 0.0

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, address):
        """Say nothing where a client has gone."""


def by_number(prompt, count):
    first, second = (int(re.search(r"\d+", text)[0]) for text in SHOWN.search(prompt).groups())
    share = 0.75 if abs(first - second) <= 1 else float(first > second)
    return [" A." if number < share * count else "(b)" for number in range(count)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(data), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.requests.append((self.path, body, time.monotonic()))
            fault = server.faults.pop(0) if server.faults else None
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            time.sleep(server.pause)
            self.respond(body, fault)
        finally:
            with server.lock:
                server.at_once -= 1

    def respond(self, body, fault):
        server, count = self.server, body.get("n", 1)
        if self.headers["Authorization"] != f"Bearer {server.key}":
            self.reply(401, {"error": {"message": f"wrong key: {self.headers['Authorization']}"}})
        elif fault == "drop":
            self.close_connection = True
        elif fault == "slow":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            for _ in range(20):  # a byte now and then: no single wait is long
                self.wfile.write(b" ")
                time.sleep(0.05)
        elif fault == "garbage":
            self.reply(200, b"<html>oops")
        elif fault == "empty":
            self.reply(200, {"choices": []})
        elif isinstance(fault, int):
            self.reply(fault, {"error": {"message": f"fault {fault}\nof {server.key}"}}, Retry_After="0")
        elif count > 1 and server.several is None:
            self.reply(400, {"error": {"message": "n is not supported"}})
        else:
            answers = server.answer(body["messages"][0]["content"], count)
            choices = [{"message": {"role": "assistant", "content": answer}} for answer in answers]
            self.reply(200, {"choices": choices if server.several else choices[:1]})


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("DSELECT_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def endpoint(server):
    made = []

    def make(**how):
        made.append(Endpoint(server.address, "judge", **{"first_wait": 0.001, "tries": 4, "timeout": 5, **how}))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def records():
    return [{"id": f"r{number}", "text": f"text {number} says so", "grade": number} for number in range(12)]


def ask_of(first, second, criterion="educational"):
    return criterion_of(criterion).prompt(f"text {first}", f"text {second}")


@pytest.mark.parametrize("fault", [429, 500, 503, "drop", "garbage", "empty"])
def test_what_passes_is_asked_again(fault, server, endpoint):
    server.faults = [fault, fault]
    asked = endpoint()
    assert asked.ask(ask_of(5, 1), 3) == [" A."] * 3
    assert (asked.requests, asked.retries) == (3, 2)


def test_a_slow_answer_is_given_up_and_asked_for_again(server, endpoint):
    server.faults = ["slow"]
    asked = endpoint(timeout=0.3)
    assert asked.ask(ask_of(5, 1), 1) == [" A."]
    assert asked.retries == 1


def test_what_does_not_pass_ends_the_run_without_the_key(server, endpoint):
    server.faults = [500] * 9
    with pytest.raises(DselectError, match=r"no answer after 4 tries: status 500: fault 500 of \*\*\*") as error:
        endpoint().ask("p", 1)
    assert KEY not in str(error.value)
    server.faults = []
    server.key = "another"
    with pytest.raises(DselectError, match=r"401.*it is refused") as error:
        endpoint().ask("p", 1)
    assert KEY not in str(error.value)
    server.key = KEY
    server.faults = [404]
    with pytest.raises(DselectError, match="see --model"):
        endpoint().ask("p", 1)
    server.faults = [302]
    with pytest.raises(DselectError, match="status 302"):
        endpoint().ask("p", 1)


def test_without_a_key_none_is_sent_and_a_closed_port_is_named(server, endpoint, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(DselectError, match="none is set"):
        endpoint().ask("p", 1)
    monkeypatch.setenv("OPENAI_API_KEY", "a\nb")
    with pytest.raises(DselectError, match="header cannot hold"):
        endpoint()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    gone = Endpoint("http://127.0.0.1:9/v1", "judge", first_wait=0.001, tries=2)
    with pytest.raises(DselectError, match=r"no answer after 2 tries: .*refused"):
        gone.ask("p", 1)
    gone.close()


@pytest.mark.parametrize("several", [None, False])
def test_an_endpoint_that_does_not_take_n_is_asked_one_by_one(several, server, endpoint):
    server.several = several
    assert endpoint().ask(ask_of(1, 5), 4) == ["(b)"] * 4 or several is False
    assert len(endpoint().ask(ask_of(1, 5), 4)) == 4


def test_a_prompt_that_is_refused_does_not_change_how_others_are_asked(server, endpoint):
    server.faults = [400, 400]
    asked = endpoint()
    with pytest.raises(Refused):
        asked.ask(ask_of(5, 1), 4)
    before = asked.requests
    asked.ask(ask_of(5, 1), 4)
    assert asked.requests == before + 1


def test_requests_keep_to_the_rate(server, endpoint):
    asked = endpoint(a_minute=1200)
    for _ in range(4):
        asked.ask(ask_of(5, 1), 1)
    times = [at for _, _, at in server.requests]
    assert times[-1] - times[0] >= 3 * 0.05 - 0.02


@pytest.mark.parametrize(
    "address",
    ["localhost:8000/v1", "ftp://x/v1", "http://", "http://user:pw@x/v1", "http://x/v1?api_key=1", "http://x:99999/v1"],
)
def test_what_is_no_address_or_holds_a_secret_is_refused(address):
    with pytest.raises(UsageError) as error:
        address_of(address)
    assert "pw" not in str(error.value)


def test_an_address_may_have_a_path_and_a_version():
    assert address_of("https://h/openai/x/?api-version=2") == "https://h/openai/x/chat/completions?api-version=2"


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("A", "A"), (" b.\n", "B"), ("(A)", "A"), ("**B**", "B"), ("Text A", "A"), ("Answer: B", "B"), ("Option A.", "A"),
     ("<think>is it A?</think>\n\nB", "B"), ("A good text", None), ("", None), ("A or B", None), ("AB", None),
     ("Neither", None), ("C", None)],
)  # fmt: skip
def test_a_vote_is_one_letter_and_nothing_else(answer, letter):
    assert vote(answer) == letter


def test_both_orders_are_averaged_and_the_bias_is_what_they_do_not_share():
    a, b = Side("x", 1, 0.0), Side("y", None, 0.0)
    bias = Bias()
    found = judgment((a, b), "c", Votes(5, 15), Votes(19, 1), 20, bias)
    assert found.p_b == pytest.approx((0.75 + 0.95) / 2)
    assert found.votes == 40
    assert (found.id_a, found.id_b) == (1, None)
    assert bias.facts()["first_share"] == pytest.approx((0.25 + 0.95) / 2)
    assert judgment((a, b), "c", Votes(20, 0), Votes(20, 0), 20, bias).p_b == 0.5
    assert bias.flipped == 1
    assert judgment((a, b), "c", Votes(5, 5, 10), Votes(19, 1), 20, bias) is None  # half is not more than half
    assert judgment((a, b), "c", Votes(refused=True), Votes(19, 1), 20, bias) is None
    assert (bias.undecided, bias.refused, bias.unreadable) == (2, 1, 10)


def test_texts_are_shown_as_they_are():
    shown = criterion_of("writing").prompt("{text_b} {0} \\1", "{text_a}{question}")
    assert SHOWN.search(shown).groups() == ("{text_b} {0} \\1", "{text_a}{question}")
    assert all(criterion_of(name[:9]).name == name for name in QUESTIONS)
    with pytest.raises(UsageError, match="--prompt FILE"):
        criterion_of("taste")


def test_a_run_asks_in_both_orders_reports_the_bias_and_writes_judgments(dselect, server, records, tmp_path):
    server.faults = [429, "drop", 500]
    server.pause = 0.02
    command = ["judge", "--endpoint", server.address, "--model", "m", "--pairs", 30, "--votes", 4, "--concurrency", 5]
    run = dselect(*command, "-o", "j.jsonl", stdin=lines(records))
    found = read_records(tmp_path / "j.jsonl")
    assert len(found) == 30
    for one in found:
        a, b = (int(one[side][1:]) for side in ("id_a", "id_b"))
        assert one["p_b"] == (0.5 if abs(a - b) == 1 else float(b > a))
        assert (one["votes"], one["criterion"]) == (8, "educational_value")
    near = sum(one["p_b"] == 0.5 for one in found)
    assert f"the text shown first got {0.5 + 0.25 * near / 30:.1%} of the votes" in run.stderr
    assert f"in {near} another text won" in run.stderr
    assert "60 prompts of about" in run.stderr
    assert 1 < server.most_at_once <= 5
    assert len(server.requests) == 63
    assert {path for path, _, _ in server.requests} == {"/v1/chat/completions"}
    assert {body["model"] for _, body, _ in server.requests} == {"m"}
    prompts = Counter(body["messages"][0]["content"] for _, body, _ in server.requests)
    assert len(prompts) == 60
    for path in tmp_path.rglob("*"):
        assert KEY not in path.read_text("utf-8", errors="ignore") if path.is_file() else True
    assert KEY not in run.stderr


def test_a_run_that_stopped_asks_only_what_is_missing(dselect, server, records, tmp_path):
    command = ["judge", "--endpoint", server.address, "--model", "m", "--votes", 2, "--concurrency", 1, "-o", "j.jsonl"]
    server.faults = [*[None] * 9, 401]
    stopped = dselect(*command, "--pairs", 12, stdin=lines(records), status=1)
    assert "status 401" in stopped.stderr
    assert not (tmp_path / "j.jsonl").exists()
    kept = (tmp_path / "j.jsonl.answers").read_bytes()
    assert kept.count(b"\n") == 9
    (tmp_path / "j.jsonl.answers").write_bytes(kept + b'{"key": "cut in the mid')
    server.faults, server.requests = [], []
    again = dselect(*command, "--pairs", 12, "--json-summary", stdin=lines(records))
    assert len(server.requests) == 24 - 9
    assert again.summary["answers_kept"] == 9
    server.requests = []
    more = dselect(*command, "--pairs", 20, "--json-summary", stdin=lines(records))
    assert len(server.requests) == 40 - 24
    assert more.summary["judgments"] == 20
    # other votes or another model are other questions
    dselect(*command[:-2], "--pairs", 3, "--votes", 3, "--answers", "j.jsonl.answers", stdin=lines(records))
    assert len(server.requests) == 40 - 24 + 6


def test_refusals_and_unreadable_votes_are_counted_and_such_pairs_left_out(dselect, server, records):
    server.answer = lambda prompt, count: ["I cannot say."] * count if "text 3 " in prompt else by_number(prompt, count)
    server.faults = [None] * 8 + [400, 400]
    options = ["--pairs", 6, "--votes", 2, "--concurrency", 1, "--criterion", "writing", "--criterion", "facts"]
    run = dselect(
        "judge", "--endpoint", server.address, "--model", "m", *options, "--json-summary", stdin=lines(records)
    )
    bias = run.summary["position_bias"]
    assert set(bias) == {"writing_style", "facts_and_trivia"}
    assert all(one["unreadable_votes"] == 4 for one in bias.values())
    assert run.summary["refused"] == 1
    assert run.summary["judgments"] == len(run.records) == 12 - run.summary["undecided"]
    assert run.summary["undecided"] in (2, 3)


def test_an_endpoint_that_refuses_everything_is_given_up(dselect, server, records):
    server.faults = [422] * 999
    command = ["judge", "--endpoint", server.address, "--model", "m", "--votes", 1]
    failed = dselect(*command, "--pairs", 30, "--concurrency", 2, stdin=lines(records), status=1)
    assert "refuses every prompt" in failed.stderr


def test_a_dry_run_prints_one_prompt_and_the_estimate_and_asks_nothing(dselect, server, records, tmp_path):
    (tmp_path / "q.txt").write_text("Nicer? {text_b} or {text_a}?")
    command = ["judge", "--endpoint", server.address, "--model", "m", "--pairs", 9, "--dry-run"]
    shown = dselect(*command, "--price", "1000000:0", stdin=lines(records)).stdout.decode()
    assert "18 prompts" in shown
    assert "by --price" in shown
    assert QUESTIONS["educational_value"] in shown
    own = dselect(*command, "--prompt", "q.txt", stdin=lines(records)).stdout.decode()
    assert re.search(r"Nicer\? text \d+ says so or text \d+ says so\?", own)
    assert server.requests == []
    (tmp_path / "bad.txt").write_text("{text_a}")
    assert "once each" in dselect(*command, "--prompt", "bad.txt", stdin=lines(records), status=1).stderr


def test_answers_that_are_none_are_refused_by_line(tmp_path):
    (tmp_path / "a").write_text('{"key":"k","a":1,"b":0,"unreadable":0,"refused":false}\n{"key":1}\n')
    with pytest.raises(DselectError, match="a:2: not an answer"):
        Answers(tmp_path / "a")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--endpoint", "http://x/v1"], "--model NAME"),
        (["--endpoint", "http://x/v1", "--model", "m", "--criterion", "taste"], "no criterion 'taste'"),
        (["--endpoint", "http://x/v1", "--model", "m", "--price", "1"], "cannot read --price"),
        (["--endpoint", "http://x/v1", "--from-field", "x"], "either --from-field"),
        (["--from-field", "x", "--dry-run"], "grades take no model"),
        (["--endpoint", "http://u:p@x/v1", "--model", "m"], "the key comes from $DSELECT_API_KEY"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(options, said, pool):
    with pytest.raises(UsageError) as refused:
        app(args=["judge", str(pool), *options, "-o", "never.jsonl"], prog_name="dselect")
    assert said in str(refused.value)
