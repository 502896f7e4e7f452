"""What the clients send."""

from __future__ import annotations

import inspect
import io
import os
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from PIL import Image

from service import __version__, wire
from service.client import AsyncClient, Client
from service.options import OPTIONS

if TYPE_CHECKING:
    from pathlib import Path


def test_only_what_is_given_is_sent(call: Any, server: Any) -> None:
    server.answers = [server.answer()]
    call("explain", b"bytes", layer=None)
    assert server.requests[0].method == "POST"
    assert server.requests[0].url == "http://127.0.0.1:8000/api/v1/explain"
    assert server.form == {"output": ["heatmap", "overlay", "map"]}
    assert server.files == [("image-0", b"bytes")]


def test_predict_sends_top_k_only_if_it_is_given(call: Any, server: Any) -> None:
    server.answers = [server.answer(), server.answer()]
    call("predict", b"bytes")
    assert server.form == {}
    call("predict", b"bytes", top_k=3)
    assert server.form == {"top_k": ["3"]}


def test_every_option_is_sent_under_its_own_name(call: Any, server: Any) -> None:
    options: dict[str, Any] = {
        "layer": ["layer3", "layer4"],
        "target": [281, "top-3", "star"],
        "against": 0,
        "method": ("gradcam", "layercam"),
        "output": "mask",
        "size": "layer",
        "colormap": "viridis",
        "alpha": 0.25,
        "threshold": 0.0,
        "image_format": "webp",
        "top_k": 3,
        "max_side": 64,
        "head": "fine",
        "signed": True,
        "smooth": 8,
        "augment": "flip",
        "registration": "stretch",
        "fuse": "mean",
        "scores": True,
        "verify": True,
        "region": [0, 0.5, 10, 10],
        "labels": ["red car", "bicycle"],
    }
    assert options.keys() == OPTIONS.keys()
    server.answers = [server.answer()]
    call("explain", b"bytes", model="a b/c", **options)
    assert server.requests[0].url.raw_path == b"/api/v1/models/a%20b%2Fc/explain"
    assert server.form == {
        "layer": ["layer3", "layer4"],
        "target": ["#281", "top-3", "star"],
        "against": ["#0"],
        "method": ["gradcam", "layercam"],
        "output": ["mask"],
        "size": ["layer"],
        "colormap": ["viridis"],
        "alpha": ["0.25"],
        "threshold": ["0.0"],
        "image_format": ["webp"],
        "top_k": ["3"],
        "max_side": ["64"],
        "head": ["fine"],
        "signed": ["True"],
        "smooth": ["8"],
        "augment": ["flip"],
        "registration": ["stretch"],
        "fuse": ["mean"],
        "scores": ["True"],
        "verify": ["True"],
        "region": ["[0, 0.5, 10, 10]"],
        "labels": ["red car", "bicycle"],
    }
    wire.ExplainOptions.model_validate({k: v if len(v) > 1 else v[0] for k, v in server.form.items()})


def test_predict_has_options_of_its_own(call: Any, server: Any) -> None:
    server.answers = [server.answer()]
    call("predict", b"bytes", top_k=3, head="fine")
    assert server.form == {"top_k": ["3"], "head": ["fine"]}
    with pytest.raises(TypeError, match="predict has no option 'layer'"):
        call("predict", b"bytes", layer="layer4")
    with pytest.raises(TypeError, match="Did you mean 'top_k'"):
        call("predict_many", [b"bytes"], topk=3)


def test_files_keep_their_names(call: Any, server: Any, tmp_path: Path) -> None:
    cat, dog = tmp_path / "cat.jpg", tmp_path / "dog.png"
    cat.write_bytes(b"\xff\xd8cat")
    dog.write_bytes(b"dog")
    server.answers = [server.answer(server.result(), server.result(1), server.result(2))]
    call("explain_many", iter([cat, str(dog), b"bytes"]), target=7)
    assert server.files == [("cat.jpg", b"\xff\xd8cat"), ("dog.png", b"dog"), ("image-2", b"bytes")]
    assert server.form["target"] == ["#7"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_file_names_that_are_no_text_are_sent_as_well_as_can_be(call: Any, server: Any, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"k\xe4tzchen.jpg")
    path.write_bytes(b"cat")
    server.answers = [server.answer()]
    call("explain", path)
    assert 'filename="k\N{REPLACEMENT CHARACTER}tzchen.jpg"'.encode() in server.requests[0].content


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16", "PA", "La", "RGBa"]
)
def test_pil_pictures_are_sent_as_png(call: Any, server: Any, mode: str) -> None:
    picture = Image.new(mode, (5, 4))
    server.answers = [server.answer()]
    call("predict", picture, top_k=2)
    [(name, content)] = server.files
    sent = Image.open(io.BytesIO(content))
    assert (name, sent.format, sent.size) == ("image-0.png", "PNG", (5, 4))
    assert sent.has_transparency_data == picture.has_transparency_data
    assert server.form == {"top_k": ["2"]}


@pytest.mark.parametrize(
    ("numbers", "mode", "name"),
    [
        ([0, 98, 255], "L", "image-0.png"),
        ([0, 256, 65535], "I;16", "image-0.png"),
        ([-1, 98, 255], "I", "image-0.tif"),
        ([0, 98, 65536], "I", "image-0.tif"),
    ],
)
def test_whole_numbers_of_32_bits_keep_their_values(
    call: Any, server: Any, numbers: list[int], mode: str, name: str
) -> None:
    picture = Image.new("I", (3, 1))
    for x, number in enumerate(numbers):
        picture.putpixel((x, 0), number)
    server.answers = [server.answer()]
    call("predict", picture)
    [(sent_name, content)] = server.files
    sent = Image.open(io.BytesIO(content))
    assert (sent_name, sent.mode) == (name, mode)
    assert [sent.getpixel((x, 0)) for x in range(3)] == numbers


@pytest.mark.parametrize("mode", ["I;16B", "I;16L", "I;16N"])
def test_16_bits_in_any_order_are_16_bits(call: Any, server: Any, mode: str) -> None:
    server.answers = [server.answer()]
    call("predict", Image.new(mode, (2, 1), 1000))
    assert Image.open(io.BytesIO(server.files[0][1])).getpixel((0, 0)) == 1000


def test_a_cmyk_profile_does_not_go_into_an_rgb_file(call: Any, server: Any) -> None:
    picture = Image.new("CMYK", (2, 2), (0, 255, 255, 0))
    picture.info["icc_profile"] = b"of cmyk"
    server.answers = [server.answer()]
    call("explain", picture)
    sent = Image.open(io.BytesIO(server.files[0][1]))
    assert sent.getpixel((0, 0)) == (255, 0, 0)
    assert "icc_profile" not in sent.info
    assert picture.info["icc_profile"] == b"of cmyk"


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "says"),
    [
        ([3], {}, TypeError, "not int"),
        ([Image.new("F", (2, 2))], {}, ValueError, "mode F"),
        (["/no/such/picture.jpg"], {}, FileNotFoundError, "picture.jpg"),
        ([b""], {"layers": "layer4"}, TypeError, "'layers'. Did you mean 'layer'"),
        ([b""], {"zzz": 1}, TypeError, "no option 'zzz'"),
        ([b""], {"layer": []}, ValueError, "layer= is empty"),
    ],
)
def test_misuse(
    call: Any, server: Any, arguments: list[Any], options: dict[str, Any], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        call("explain", *arguments, **options)
    assert not server.requests


@pytest.mark.parametrize("method", ["explain_many", "predict_many"])
def test_misuse_of_several(call: Any, method: str) -> None:
    with pytest.raises(TypeError, match="into a list"):
        call(method, "cat.jpg")
    with pytest.raises(ValueError, match="no picture"):
        call(method, [])


def test_headers_and_prefix(call: Any, server: Any) -> None:
    server.answers = [httpx.Response(200, json={"name": "camserve", "version": "1", "api": "v1"})]
    call.configure(base_url="https://example.org/cam/", api_key="secret", headers={"X-Team": "a"})
    assert call("version").version == "1"
    request = server.requests[0]
    assert request.url == "https://example.org/cam/version"
    assert request.headers["Authorization"] == "Bearer secret"
    assert request.headers["X-Team"] == "a"
    assert request.headers["User-Agent"] == f"camserve-client/{__version__}"
    assert "secret" not in repr(call.client)
    assert "https://example.org/cam/" in repr(call.client)


def test_own_headers_replace_those_of_the_client(call: Any, server: Any) -> None:
    server.answers = [httpx.Response(200)]
    call.configure(api_key="secret", headers={"authorization": "Basic x"})
    assert call("ready") is True
    assert server.requests[0].headers.get_list("Authorization") == ["Basic x"]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_base_url_needs_a_scheme(kind: type[Client | AsyncClient]) -> None:
    with pytest.raises(ValueError, match="http://"):
        kind("localhost:8000")


def test_both_clients_offer_the_same() -> None:
    def public(kind: type) -> dict[str, list[tuple[str, Any]]]:
        names = (name for name in dir(kind) if not name.startswith("_") and name not in {"close", "aclose"})
        signatures = {name: inspect.signature(getattr(kind, name)) for name in names}
        return {name: [(p.name, p.default) for p in s.parameters.values()] for name, s in signatures.items()}

    assert public(Client) == public(AsyncClient)


def test_context_managers_close(server: Any) -> None:
    with Client(transport=httpx.MockTransport(server)) as client:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        client.models()


async def test_async_context_managers_close(server: Any) -> None:
    async with AsyncClient(transport=httpx.MockTransport(server)) as client:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        await client.models()
