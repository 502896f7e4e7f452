"""What log lines hold, and what they do not."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import Base

from service import logs
from service.logs import JsonFormatter, _Writer, about
from service.web.keys import digest_of, make_key
from tests.server import running_server
from tests.toys import encode, png
from tests.web.application import faked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLACK = png(np.zeros((40, 40, 3), np.uint8))
JSON = "application/json"
START_TIMEOUT_S = 120.0


def line_of(level: int = logging.INFO, message: str = "said", *values: object, **extra: Any) -> dict[str, Any]:
    """What the formatter makes of a record."""
    record = logging.LogRecord("camserve.test", level, __file__, 1, message, values, None)
    for name, value in extra.items():
        setattr(record, name, value)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    line: dict[str, Any] = json.loads(text)
    return line


class TestJson:
    def test_a_line(self) -> None:
        line = line_of(logging.WARNING, "%s of %d", "one", 2)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line.pop("time"))
        assert isinstance(line.pop("pid"), int)
        assert line == {"level": "warning", "logger": "camserve.test", "message": "one of 2"}

    def test_whose_request_it_is_about(self) -> None:
        with about("mine-1"):
            assert line_of()["request_id"] == "mine-1"
        assert "request_id" not in line_of()

    def test_fields_of_requests_and_no_others(self) -> None:
        fields: dict[str, Any] = {"method": "GET", "route": "/livez", "status": 200, "duration_ms": 0.5, "key": "web"}
        assert fields.items() <= line_of(**fields).items()
        assert "body" not in line_of(body=b"picture", headers={"a": "b"})

    @pytest.mark.parametrize("text", ['a"b', "a\nb", "a\u2028b", "\ud800", "\x00\x1b[31m", "é😀"])
    def test_any_text_stays_on_its_line(self, text: str) -> None:
        assert line_of(logging.INFO, "%s", text)["message"] == text

    def test_exceptions(self) -> None:
        try:
            raise ValueError("of all things")
        except ValueError:
            record = logging.LogRecord("a", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
        line = json.loads(JsonFormatter().format(record))
        assert line["message"] == "failed"
        assert line["exception"].endswith("ValueError: of all things")


@contextmanager
def server(log: Path, *arguments: str) -> Iterator[str]:
    """A real server that logs into a file; gives its address once its models are loaded."""
    command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--device", "cpu", *arguments]
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            yield _wait_until_ready(log)
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait_until_ready(log: Path) -> str:
    """Return the address that the log tells."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        told = re.search(r" at (http://127\.0\.0\.1:\d+)\b", log.read_text())
        if told and httpx.get(f"{told[1]}/readyz", timeout=60).is_success:
            return told[1]
        time.sleep(0.1)
    raise AssertionError(f"no model was ready within {START_TIMEOUT_S:g} s")


def provoke(url: str, key: str) -> dict[str, int]:
    """Ask for what goes well and for what goes wrong, each under an id of its own; return the statuses by id."""
    encoded = base64.b64encode(BLACK).decode()
    image = {"content-type": "image/png"}
    requests: dict[str, dict[str, Any]] = {
        "fine": {"content": png(), "headers": image},
        "dark": {"content": BLACK, "headers": image},
        "torn": {"content": png()[:60], "headers": image},
        "json": {"json": {"images": [{"b64": encoded, "filename": "secret-name.png"}], "layer": ["x"]}},
        "broken": {
            "content": b'{"images": [{"b64": "' + encoded.encode(),
            "headers": {"content-type": "application/json"},
        },
        "typed": {"json": {"images": [{"b64": encoded, "more": encoded}]}},
        "tagged": {"content": tagged(), "headers": {"content-type": "image/jpeg"}},
        "spoilt": {"content": b"secret-name", "headers": {"content-type": "multipart/form-data; boundary=B"}},
        "form": {"files": {"picture": ("secret-name.png", png())}},
        "query": {"params": {"alpha": key}, "content": png(), "headers": image},
    }
    statuses = {}
    with httpx.Client(base_url=url, timeout=60) as client:
        for name, request in requests.items():
            sent = {**request.pop("headers", {}), "Authorization": f"Bearer {key}", "X-Request-ID": name}
            statuses[name] = client.post("/api/v1/explain", headers=sent, **request).status_code
        wrong = {"Authorization": f"Bearer {key}x", "X-Request-ID": "wrong"}
        statuses["wrong"] = client.get("/api/v1/methods", headers=wrong).status_code
    return statuses


EXPECTED = {
    "fine": 200,
    "dark": 500,
    "torn": 400,
    "json": 422,
    "broken": 400,
    "typed": 400,
    "tagged": 200,
    "spoilt": 400,
    "form": 400,
    "query": 422,
    "wrong": 401,
}


def tagged() -> bytes:
    """A photo that says in its metadata where it was taken."""
    exif = Image.Exif()
    exif[Base.ImageDescription] = "secret-name"
    return encode(Image.linear_gradient("L"), "JPEG", exif=exif)


def secrets_of(key: str) -> list[str]:
    """What must not stand in a log: pieces of the key and of the pictures, however they may be written."""
    raw = [BLACK[20:60], png()[20:60]]
    written = [repr(each)[2:-1] for each in raw] + [each.hex() for each in raw]
    encoded = [base64.b64encode(each).decode()[20:60] for each in (BLACK, png())]
    return [key[9:29], "secret-name", *written, *encoded]


async def test_probes_are_logged_where_somebody_looks_for_everything(caplog: pytest.LogCaptureFixture) -> None:
    async with faked() as application, application.client() as client:
        with caplog.at_level(logging.DEBUG, "camserve.access"):
            for path in ("/livez", "/readyz", "/metrics", "/version", "/nowhere"):
                await client.get(path)
    told = [
        (record.getMessage().split()[1], record.levelname)
        for record in caplog.records
        if record.name == "camserve.access"
    ]
    assert told == [
        ("/livez", "DEBUG"),
        ("/readyz", "DEBUG"),
        ("/metrics", "DEBUG"),
        ("/version", "INFO"),
        ("unknown", "INFO"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_real_log_has_every_request_and_no_secret(tmp_path: Path, log_format: str) -> None:
    key, log = make_key(), tmp_path / "log"
    options = ["--log-format", log_format, "--log-level", "debug", "--keys", f"web={digest_of(key)}"]
    with server(log, *options, "--model", "dark=tests.user_models.fails_on_black,size=32,resize=32") as url:
        assert provoke(url, key) == EXPECTED
    text = log.read_text()
    assert "this model is afraid of the dark" in text, "the worker logs, too"
    assert [each for each in secrets_of(key) if each in text] == []
    assert "multipart" not in text, "what strangers do wrong is in their answer, and fills no log"
    if log_format == "text":
        assert all(name in text for name in EXPECTED)
        return
    lines = [json.loads(line) for line in text.splitlines()]
    accessed = {line["request_id"]: line for line in lines if line["logger"] == "camserve.access"}
    assert {name: accessed[name]["status"] for name in EXPECTED} == EXPECTED
    assert accessed["fine"]["route"] == "/api/v1/explain"
    assert accessed["fine"]["method"] == "POST"
    assert accessed["fine"]["duration_ms"] > 0
    assert accessed["fine"]["key"] == "web"
    assert "key" not in accessed["wrong"]
    (failed,) = (line for line in lines if "exception" in line)
    assert (failed["logger"], failed["request_id"], failed["level"]) == ("camserve.worker", "dark", "error")
    assert failed["pid"] != accessed["fine"]["pid"]
    assert any(line["message"].endswith(url) for line in lines), "where it listens"


def test_what_settings_have_to_say_is_a_line_like_others() -> None:
    """They are read before it is known how lines look."""
    command = [sys.executable, "-m", "service.cli", "check", "--image", "nowhere.png", "--log-format", "json"]
    command += ["--model", "shapes,dtype=float16"]
    said = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120).stderr
    line = json.loads(said[said.index("{") : said.index("}") + 1])  # what is wrong with the picture stands around it
    assert (line["logger"], line["level"]) == ("camserve.models", "warning")
    assert "precision" in line["message"]


def test_no_answer_says_what_software_it_is() -> None:
    with (
        running_server("--device", "cpu", wait=False) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        for path in ("/", "/livez", "/nowhere", "/static/page/main.js", "/api/v1/models"):
            headers = client.get(path).headers
            assert not {"server", "x-powered-by", "via"} & set(headers)
        for head in (b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=30) as connection:
                connection.sendall(head)
                answer = connection.recv(65536).lower()
            assert answer.startswith(b"http/1.1 400")
            assert b"server:" not in answer
            assert b"uvicorn" not in answer


@pytest.mark.slow
def test_nobody_reads_the_log_and_nobody_waits_for_that() -> None:
    """A pipe holds 64 KiB; what more is said waits or is dropped, and requests are answered all the same."""
    command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--model", "shapes"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = next(line for line in process.stdout if " at http://" in line).split(" at ")[1].split()[0]
            with httpx.Client(base_url=url, timeout=60) as client:
                for _ in range(1500):
                    assert client.get("/api/v1/methods").status_code == 200
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()


class TestWriter:
    def test_lines_are_written_in_order(self) -> None:
        stream = io.StringIO()
        writer = _Writer(stream.write)
        for number in range(100):
            writer.handle(logging.makeLogRecord({"msg": str(number)}))
        writer.flush()
        assert stream.getvalue().split() == [str(number) for number in range(100)]

    def test_what_finds_no_room_is_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logs, "_MAX_WAITING", 3)
        go = threading.Event()

        class Stuck(io.StringIO):
            def write(self, text: str) -> int:
                assert go.wait(60)
                return super().write(text)

        stream = Stuck()
        writer = _Writer(stream.write)
        for number in range(20):
            writer.handle(logging.makeLogRecord({"msg": f"line {number}"}))
        go.set()
        writer.flush()
        writer.handle(logging.makeLogRecord({"msg": "the last"}))
        writer.flush()
        lines = stream.getvalue().splitlines()
        assert lines[:3] == ["line 0", "line 1", "line 2"]
        dropped = next(line for line in lines if "dropped" in line)
        assert int(dropped.split()[1]) == 20 - (len(lines) - 2)
        assert lines[-1] == "the last"

    def test_a_stream_that_takes_nothing_is_no_error(self) -> None:
        def full(_text: str) -> None:
            raise OSError(28, "No space left on device")

        writer = _Writer(full)
        writer.handle(logging.makeLogRecord({"msg": "said"}))
        writer.flush()
