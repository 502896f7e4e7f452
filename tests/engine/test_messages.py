"""What front process and worker say to each other."""

from __future__ import annotations

import socket

from service.engine.messages import Ping, Pong, pack, receive


def test_messages_arrive_until_the_other_end_is_gone() -> None:
    front, worker = socket.socketpair()
    with worker, worker.makefile("rb") as stream:
        front.sendall(pack(Ping()) + pack(Pong({}))[:-1])
        front.close()
        assert isinstance(receive(stream), Ping)
        assert receive(stream) is None


def test_an_end_that_read_nothing_is_gone_too() -> None:
    front, worker = socket.socketpair()
    with worker, worker.makefile("rb") as stream:
        worker.sendall(pack(Pong({})))
        front.close()  # the kernel resets the connection: something unread is lost
        assert receive(stream) is None
