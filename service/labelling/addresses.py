"""Which addresses may be asked for a picture that a stranger names: no machine of this network, by whatever name."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from service.errors import PictureNotFetched

__all__ = ["is_public", "public_addresses", "resolved"]

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(text: str) -> bool:
    """Whether an address is one of the internet; an IPv6 address that stands for an IPv4 one is as that is."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    inner = _inside(address)
    return all(_is_global(each) for each in (address, inner) if each is not None)


def _is_global(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and (address in _NAT64 or address.ipv4_mapped):
        return True  # as what it stands for
    local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local  # global, to ``ipaddress``
    return address.is_global and not (local or address.is_multicast or address.is_reserved or address.is_unspecified)


def _inside(address: Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 address stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)


async def public_addresses(host: str, port: int) -> list[str]:
    """Resolve a host once, so that what is asked is what was checked.

    Raises:
        PictureNotFetched: there is no such host, or one of its addresses is not of the internet.
    """
    found = await resolved(host, port)
    if not all(is_public(address) for address in found):
        raise PictureNotFetched(
            f"{host!r} is an address of this machine or its network, which is not asked for pictures. Only the host of "
            "label_studio_url may be, and those of label_studio_storage."
        )
    return found


async def resolved(host: str, port: int) -> list[str]:
    """Return the addresses of a host.

    Raises:
        PictureNotFetched: it has none.
    """
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise PictureNotFetched(f"There is no host {host!r}.") from None
    return list(dict.fromkeys(str(info[4][0]) for info in infos))
