"""Pictures that the embedded models know, and ways to send them and to read what comes back."""

from __future__ import annotations

import base64
import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tests.toys import encode

if TYPE_CHECKING:
    import httpx
    from numpy.typing import NDArray

SAMPLES = Path(__file__).parents[3] / "service" / "demo" / "samples"
STAR = 3  # the star's class index; the labels are those of service/demo/labels.txt


@cache
def star() -> bytes:
    """A star on a cluttered background, 192 × 192; the model gives it 0.95."""
    return (SAMPLES / "03-star.png").read_bytes()


@cache
def wide() -> bytes:
    """The same picture in the middle of a grey one of 320 × 192: the model sees just the star's part."""
    canvas = Image.new("RGB", (320, 192), (90, 90, 90))
    canvas.paste(Image.open(io.BytesIO(star())), (64, 0))
    return encode(canvas, "PNG")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def explain(client: httpx.AsyncClient, picture: bytes | None = None, **options: Any) -> dict[str, Any]:
    """The answer for one picture, sent as JSON."""
    response = await ask(client, picture, **options)
    assert response.status_code == 200, response.text
    (result,) = response.json()["results"]
    assert isinstance(result, dict)
    return result


async def explanation(client: httpx.AsyncClient, picture: bytes | None = None, **options: Any) -> dict[str, Any]:
    """The one explanation of one picture."""
    (only,) = (await explain(client, picture, **options))["explanations"]
    assert isinstance(only, dict)
    return only


async def ask(client: httpx.AsyncClient, picture: bytes | None = None, **options: Any) -> httpx.Response:
    body = {"images": [{"b64": b64(star() if picture is None else picture)}], **options}
    return await client.post("/api/v1/explain", json=body)


def opened(encoded: dict[str, Any]) -> Image.Image:
    """The picture of a response; its own size and format are what the response says."""
    picture = Image.open(io.BytesIO(base64.b64decode(encoded["data"], validate=True)))
    assert picture.size == (encoded["width"], encoded["height"])
    assert encoded["media_type"] == f"image/{str(picture.format).lower()}"
    return picture


def rgba(encoded: dict[str, Any]) -> NDArray[np.uint8]:
    """(h, w, 4)."""
    return np.asarray(opened(encoded).convert("RGBA"))


def array(encoded: dict[str, Any]) -> NDArray[np.float32]:
    """The raw map of a response."""
    assert encoded["dtype"] == "float32"
    flat = np.frombuffer(base64.b64decode(encoded["data"], validate=True), "<f4")
    return flat.reshape(encoded["shape"])
