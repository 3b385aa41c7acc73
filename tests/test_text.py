"""What may be shown of a text. Keys are AWS's published examples."""

import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from persam_ray.console import console
from persam_ray.data.storage import StorageError, exists, filesystem, list_files, read_bytes, read_many
from persam_ray.text import printable, public, writable

KEY_ID, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://h/a.jpg?X-Amz-Signature=1f&X-Amz-Date=2: not found", "https://h/a.jpg: not found"),
        ("(403, message='Forbidden', url='https://h/a?sig=1')", "(403, message='Forbidden', url='https://h/a')"),
        ("https://h/a?x=1,2&sig=3,https://h/b?sig=4", "https://h/a,https://h/b"),
        ("cup=https://h/a?sig=1,mask.png", "cup=https://h/a,mask.png"),
        ("https://h/a?BareToken", "https://h/a"),
        ("https://me:pw@h:90/a", "https://h:90/a"),
        ("https://me:p@w@h/a", "https://h/a"),
        ("https://token@h/a", "https://h/a"),
        (f"s3://{KEY_ID}:{SECRET}@bucket/a", "s3://bucket/a"),
        ("{'Authorization': 'Basic bWU6cHc='}", "{'Authorization': '***'}"),
        ("authorization: Bearer abc.def", "authorization: ***"),
        (f"Authorization: AWS4-HMAC-SHA256 Credential={KEY_ID}/x, Signature=fe", "Authorization: ***, Signature=***"),
        (
            "x-amz-security-token=FwoG aws_secret_access_key = x/y",
            "x-amz-security-token=*** aws_secret_access_key = ***",
        ),
    ],
)
def test_secrets_are_cut_out(text: str, shown: str) -> None:
    assert public(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/what?.jpg: not found",
        "http://localhost:9000/a@b/c.jpg",
        "s3://bucket/a:b@2x.jpg",
        "s3://arn:aws:s3:us-west-2:123456789012:accesspoint/photos/a.jpg",
        "--min-area-fraction must be between 0 and 1, but is 7.0",
        "photos/me@home.jpg, who?.jpg",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert public(text) == text


def test_the_process_own_secrets_are_cut_out_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("SOME_API_TOKEN", "test")  # a word, which is no secret
    assert public(f"a test: Invalid bucket name {KEY_ID}:{SECRET}") == "a test: Invalid bucket name ***:***"


def test_what_steers_a_terminal_is_escaped_and_writing_stays() -> None:
    assert printable("a\x1b[31m\r\n\x07\x9b\u202e\u2028\0\ud800") == r"a\x1b[31m\r\n\x07\x9b\u202e\u2028\x00\ud800"
    for text in ("日本　写真.jpg", "ünïcödé é", "naïve 📷", "עברית", "back\\slash"):
        assert printable(text) == text


def test_surrogates_become_escapes_and_other_text_stays() -> None:
    assert writable("\ud800a\udcff日\x1b") == "\\ud800a\\udcff日\x1b"


def test_the_console_shows_neither(capsys: pytest.CaptureFixture[str]) -> None:
    console.print("results: https://me:pw@h/a?sig=1\x1b[2J", "b\nc", sep="\n  ")
    assert capsys.readouterr().err == "results: https://h/a\n  b\\nc\n"


# --- errors of storage -----------------------------------------------------------------------------------------------


def test_an_error_keeps_no_secret_and_travels() -> None:
    error = StorageError("https://me:pw@h/a?sig=1: access\ndenied")
    assert str(error) == "https://h/a: access denied"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_credentials_in_an_s3_url_are_refused_without_repeating_them() -> None:
    for call in (filesystem, read_bytes, exists, list_files):
        with pytest.raises(StorageError, match=r"^s3://bucket/a: S3 credentials come from AWS_ACCESS_KEY_ID"):
            call(f"s3://{KEY_ID}:{SECRET}@bucket/a")


@pytest.fixture
def refusing_server() -> Iterator[str]:
    """A server that forbids everything and repeats what it was sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403, f"Forbidden to {self.headers.get('Authorization', 'nobody')}")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_signed_url_that_is_refused_is_named_without_its_signature(refusing_server: str) -> None:
    uri = f"http://{refusing_server}/a.jpg?X-Amz-Credential={KEY_ID}&X-Amz-Signature=5ec2e7"
    with pytest.raises(StorageError) as caught:
        read_bytes(uri)
    (in_place,) = read_many([uri])
    for said in (str(caught.value), str(in_place)):
        assert said.startswith(f"http://{refusing_server}/a.jpg: ")
        assert "403" in said
        assert KEY_ID not in said
        assert "5ec2e7" not in said


def test_a_file_whose_name_is_no_text_fails_with_a_row_that_can_be_written(tmp_path: Path) -> None:
    (found,) = read_many([f"{tmp_path}/gone\udcff.jpg"])
    assert isinstance(found, StorageError)
    assert r"gone\udcff.jpg: not found" in str(found)
    assert str(found).encode()
