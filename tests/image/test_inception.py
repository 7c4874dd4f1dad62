"""The Inception file: found, checked before anything reads it, and downloaded when asked for."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.error import HTTPError

import numpy as np
import pytest
import torch

from genkit.errors import InputError
from genkit.image import inception
from genkit.image.inception import InceptionNet, fetch, find, kept

BODY = b"weights" * 100_000


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file in any cache, and another one that counts as the standard one."""
    monkeypatch.setenv("GENKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(BODY).hexdigest())


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A server of the file; the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.path == "/missing":
                self.send_error(404)
                return
            body = BODY[:-1] + b"!" if self.path == "/other" else BODY
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if self.path == "/broken" else body)

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setattr(inception, "URL", f"http://127.0.0.1:{server.server_port}/file")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield asked
        server.shutdown()
        thread.join()


def test_it_is_downloaded_once_and_whole(served: list[str]) -> None:
    assert find() is None
    heard: list[tuple[float, int]] = []
    path = fetch(lambda fraction, done: heard.append((fraction, done)))
    assert path.read_bytes() == BODY
    assert path == find() == kept()
    assert heard[-1] == (1.0, len(BODY))
    assert len(heard) > 1
    assert (fetch(), served) == (path, ["/file"])
    path.write_bytes(b"damaged")
    assert fetch().read_bytes() == BODY


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("other", "is not the standard Inception file"),
        ("broken", "broke off"),
        ("missing", "Not Found"),
        (None, "refused"),
    ],
)
def test_what_is_wrong_leaves_nothing(
    served: list[str], monkeypatch: pytest.MonkeyPatch, page: str | None, message: str
) -> None:
    url = inception.URL.replace("/file", f"/{page}") if page else "http://127.0.0.1:9/file"
    monkeypatch.setattr(inception, "URL", url)
    with pytest.raises(InputError, match=message) as caught:
        fetch()
    assert url in caught.value.message
    assert str(kept()) in str(caught.value.hint)
    assert list(kept().parent.iterdir()) == []
    cause = caught.value.__cause__
    assert isinstance(cause, HTTPError) == (page == "missing")
    assert not isinstance(cause, HTTPError) or cause.closed


def test_the_address_is_one_of_its_own_kind() -> None:
    assert inception.URL.startswith("https://")
    assert inception.URL.endswith(inception.NAME)


def test_it_is_found_where_torch_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "torch/hub/checkpoints" / inception.NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    assert find() == path
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find() == path


def test_another_file_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise AssertionError("it is read")

    monkeypatch.setattr(torch, "load", refuse)
    (tmp_path / "other.pth").write_bytes(BODY + b"!")
    with pytest.raises(InputError, match=r"other.pth is not the standard Inception file"):
        InceptionNet(tmp_path / "other.pth")


def test_without_torch_fidelity_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file.pth").write_bytes(BODY)
    monkeypatch.setattr(inception, "find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        inception.check(tmp_path / "file.pth")
    assert caught.value.hint == "pip install 'genkit-cli[metrics]'"


def test_features_are_those_of_torch_fidelity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    cls = module.FeatureExtractorInceptionV3
    torch.manual_seed(0)
    with monkeypatch.context() as patch:  # weights at random instead of from the network
        patch.setattr(module, "load_state_dict_from_url", lambda *args, **more: {})
        patch.setattr(cls, "load_state_dict", lambda *args: None)
        reference = cls("reference", ["2048"])
    (tmp_path / "file.pth").write_bytes(BODY)
    monkeypatch.setattr(torch, "load", lambda path, weights_only: reference.state_dict())
    monkeypatch.setattr(inception, "_BATCH", 2)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1), dtype=np.uint8)
    done: list[int] = []
    found = InceptionNet(tmp_path / "file.pth")(pixels, done.append)
    expected = reference(torch.from_numpy(pixels).permute(0, 3, 1, 2).repeat(1, 3, 1, 1))[0]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-5)
    assert (found.shape, done) == ((3, 2048), [2, 3])
