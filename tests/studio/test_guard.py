"""What the page does not answer: the names of other sites, and where code is executed, requests without the token."""

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from noisetilt.studio.guard import Guard, names_of_this_computer

HOSTS = names_of_this_computer("127.0.0.1")


def client(hosts=HOSTS, token=None):
    return TestClient(Guard(PlainTextResponse("the page"), hosts, token, 7860), "http://127.0.0.1:7860")


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860"])
def test_names_of_this_computer_are_answered(host):
    assert client().get("/", headers={"Host": host}).text == "the page"


@pytest.mark.parametrize("host", ["evil.example:7860", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1"])
def test_other_names_are_refused(host):
    headers = {"Host": host, "Origin": f"http://{host}"}
    answer = client().post("/gradio_api/queue/join", headers=headers)
    assert answer.status_code == 403 and f"not served as {host!r}; open the address that" in answer.text
    assert client(hosts=None).get("/", headers=headers).text == "the page"


def test_the_name_of_a_proxy_is_answered(monkeypatch):
    monkeypatch.setenv("GRADIO_ROOT_PATH", "https://proxy.example/studio")
    assert names_of_this_computer("localhost") == {"localhost", "127.0.0.1", "::1", "proxy.example"}


def test_the_token_is_needed_once_and_is_a_cookie_afterwards():
    visitor = client(token="secret")
    for path in ("/", "/?token=", "/?token=wrong", "/?token=%C3%BC", "/gradio_api/queue/join"):
        answer = visitor.get(path)
        assert answer.status_code == 401 and "open the address that noisetilt studio printed" in answer.text
    answer = visitor.get("/?token=secret&__theme=dark", follow_redirects=False)
    assert answer.status_code == 303 and answer.headers["location"] == "http://127.0.0.1:7860/?__theme=dark"
    assert "HttpOnly" in answer.headers["set-cookie"] and "samesite=lax" in answer.headers["set-cookie"].lower()
    assert visitor.get("/").text == "the page"
    assert visitor.post("/", headers={"Origin": "http://127.0.0.1:7860"}).text == "the page"
    for origin in ("http://127.0.0.1:8000", "null"):  # a page on another port gets the cookie too
        assert visitor.post("/", headers={"Origin": origin}).status_code == 403
    assert visitor.get("/", headers={"Host": "evil.example:7860"}).status_code == 403
    assert client(token="other").get("/", headers={"Cookie": "noisetilt-studio-7860=secret"}).status_code == 401
