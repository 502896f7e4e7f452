"""Fetch a file to the cache: whole and with the right checksum, or not at all.

``torch.hub.download_url_to_file`` waits for ever for a site that stalls, takes a transfer that breaks off for a wrong
checksum, and may leave its half on a disk that is full.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from http.client import HTTPException
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.request import Request, urlopen

from tqdm import tqdm

from service.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["fetch"]

_STALL_S = 30.0  # without a byte; a slow transfer may take as long as it likes
_CHUNK_BYTES = 1024 * 1024


def fetch(url: str, to: Path, checksum: str) -> None:
    """Write what ``url`` (http, https or file) sends to ``to``, whose folder is made.

    Whoever looks at ``to`` finds the whole file or none, and nothing else is left behind. ``checksum`` is how the
    file's SHA-256 begins, in hex.

    Raises:
        ModelLoadError: it cannot be had, is another file, or cannot be kept.
    """
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="partial-", dir=to.parent) as folder:
            partial = Path(folder) / to.name
            with partial.open("wb") as file:
                found = _transfer(url, file)
            if not found.startswith(checksum):
                raise ModelLoadError(f"What {url} sent has not the checksum {checksum}, but {found[:16]}. Try again.")
            partial.replace(to)
    except OSError as error:
        raise ModelLoadError(f"{to.name} cannot be kept in {to.parent}: {error.strerror or error}.") from error


def _transfer(url: str, file: IO[bytes]) -> str:
    """Copy what ``url`` sends to ``file``; return its SHA-256 in hex. OSErrors are those of the file alone."""
    digest = hashlib.sha256()
    received = 0
    with contextlib.ExitStack() as stack:
        with _reaching(url):
            request = Request(url, headers={"User-Agent": "camserve"})  # noqa: S310 - the settings allow no other scheme
            answer = stack.enter_context(urlopen(request, timeout=_STALL_S))  # noqa: S310
            announced = int(answer.headers.get("Content-Length") or 0)
        bar = stack.enter_context(tqdm(total=announced or None, unit="B", unit_scale=True, unit_divisor=1024))
        while True:
            with _reaching(url):
                chunk = answer.read(_CHUNK_BYTES)
            if not chunk:
                break
            file.write(chunk)
            digest.update(chunk)
            bar.update(len(chunk))
            received += len(chunk)
    if received < announced:
        raise ModelLoadError(f"{url} broke off after {received:,} of {announced:,} bytes. Try again.")
    return digest.hexdigest()


@contextlib.contextmanager
def _reaching(url: str) -> Iterator[None]:
    """Turn errors of the network into ours."""
    try:
        yield
    except TimeoutError as error:
        raise ModelLoadError(f"{url} sent nothing for {_STALL_S:g} s. Try again.") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = str(getattr(error, "reason", error)).strip()
        raise ModelLoadError(f"{url} cannot be reached ({reason}).") from error
