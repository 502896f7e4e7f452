from __future__ import annotations

import argparse
import collections
import contextlib
import io
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.models import pickles
from service.models.pickles import Inert, Named, UnreadablePickle, mapping, read_pickle


def read(content: bytes, rebuild: dict[str, Any] | None = None) -> Any:
    return read_pickle(io.BytesIO(content), rebuild or {})


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.tuples(inner, inner)
        | st.sets(st.integers())
        | st.frozensets(st.text())
    ),
    max_leaves=20,
)


class TestData:
    @settings(max_examples=200)
    @given(PLAIN, st.integers(4, 5))
    def test_plain_data_is_what_was_pickled(self, data: object, protocol: int) -> None:
        assert read(pickle.dumps(data, protocol)) == data

    @pytest.mark.parametrize("protocol", range(6))
    def test_every_protocol(self, protocol: int) -> None:
        data = {"a": [1, 2**80, -1.5, None, True], "b": ("x", ("y", "z", "w", "v")), 3: []}

        assert read(pickle.dumps(data, protocol)) == data

    def test_the_stream_is_left_behind_the_pickle(self) -> None:
        stream = io.BytesIO(pickle.dumps([1]) + pickle.dumps("next") + b"rest")

        assert [read_pickle(stream, {}), read_pickle(stream, {}), stream.read()] == [[1], "next", b"rest"]

    def test_what_is_shared_stays_shared(self) -> None:
        inner = [1]
        one, other = read(pickle.dumps([inner, inner]))

        assert one is other

    def test_something_that_holds_itself(self) -> None:
        whole: list[Any] = []
        whole.append(whole)
        found = read(pickle.dumps(whole))

        assert found[0] is found


class Config(dict[str, Any]):
    """A mapping with attributes, as configuration libraries have them."""


class TestObjects:
    @pytest.mark.parametrize("protocol", range(2, 6))
    def test_become_a_name_and_what_they_would_have_been_made_of(self, protocol: int) -> None:
        found = read(pickle.dumps(argparse.Namespace(lr=0.1, model="resnet18"), protocol))

        assert (found.name, found.state) == ("argparse.Namespace", {"lr": 0.1, "model": "resnet18"})

    def test_of_subclasses_of_dict_and_list_keep_what_they_hold(self) -> None:
        config = Config(lr=0.1)
        config.frozen = True  # type: ignore[attr-defined]
        found = read(pickle.dumps([config, collections.deque([1, 2]), collections.defaultdict(list, a=[3])]))

        assert [mapping(found[0]), found[1].elements, mapping(found[2])] == [{"lr": 0.1}, [1, 2], {"a": [3]}]
        assert found[0].state == {"frozen": True}

    def test_of_numpy_and_pathlib_stay_inert(self) -> None:
        found = read(pickle.dumps({"best": np.float64(0.9), "maps": np.ones(3), "out": Path("runs")}))

        assert all(isinstance(value, Inert) for value in found.values())
        assert found["out"].args == ("runs",)

    def test_functions_and_classes_become_names(self) -> None:
        assert read(pickle.dumps([os.system, argparse.Namespace])) == [
            Named("posix.system"),
            Named("argparse.Namespace"),
        ]

    def test_only_what_the_caller_names_is_rebuilt(self) -> None:
        found = read(pickle.dumps([complex(1, 2), argparse.Namespace()]), {"builtins.complex": lambda *args: args})

        assert found[0] == (1, 2)
        assert isinstance(found[1], Inert)


def call(name: bytes, argument: bytes) -> bytes:
    """A pickle that calls a function with one string."""
    return b"c" + name.replace(b".", b"\n", 1) + b"\n(V" + argument + b"\ntR."


class TestHostile:
    @pytest.mark.parametrize(
        "content",
        [
            call(b"os.system", b"touch was-here"),
            call(b"posix.system", b"touch was-here"),
            call(b"builtins.eval", b"open('was-here', 'w')"),
            call(b"builtins.exec", b"open('was-here', 'w')"),
            b"(S'touch was-here'\nios\nsystem\n.",
            b"(cos\nsystem\nS'touch was-here'\no.",
            b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0etouch was-here\x85R.",
            b"\x80\x02cos\nsystem\nX\x0e\x00\x00\x00touch was-here\x85\x81.",
            b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(Vos\ntRVsystem\ntR(Vtouch was-here\ntR.",
            b"ctorch.hub\nload\n(Vwas-here\nVx\ntR.",
            b"ctorch.serialization\nload\n(Vwas-here\ntR.",
        ],
        ids=lambda content: content[:30].decode("latin1").replace("\n", " "),
    )
    def test_nothing_is_called(self, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

        assert isinstance(read(content), Inert)

        assert not list(tmp_path.iterdir())

    def test_nothing_is_imported(self) -> None:
        assert "this" not in sys.modules
        assert read(b"cthis\nc\n.") == Named("this.c")
        assert "this" not in sys.modules

    @pytest.mark.parametrize(
        "target", [b"ccollections\nOrderedDict\n", b"cbuiltins\ncomplex\n", b"]", b"}", b"Vtext\n"]
    )
    def test_no_attribute_of_anything_real_is_set(self, target: bytes) -> None:
        """The state of an object would become its attributes, which may be methods of a class that all share."""
        before = dir(collections.OrderedDict)

        read(target + b"(}Vitems\nK\x01st" + b"b.")

        assert dir(collections.OrderedDict) == before
        assert collections.OrderedDict(a=1).items()

    def test_a_rebuild_function_is_not_reached_by_state_or_by_another_name(self) -> None:
        called: list[object] = []
        rebuild = {"torch.f": called.append}

        read(b"ctorch\nf\n(}Vx\nK\x01stb.", rebuild)
        read(b"ctorch\nf\n(VK\ntR(V1\ntR.", {"torch.f": lambda *_: Inert("torch.f")})
        read(b"ctorch.f\nx\n(V1\ntR.", rebuild)

        assert called == []

    @pytest.mark.parametrize(
        "content",
        [
            b"(" * 1_000_000 + b".",
            b"]" * 1_000_000 + b"a" * 999_999 + b".",
            b"\x80\x02" + b"N\x85" + b"\x85" * 1_000_000 + b".",
            b"cx\ny\n" + b")\x81" * 300_000 + b".",
        ],
        ids=["marks", "lists in lists", "tuples in tuples", "objects of objects"],
    )
    def test_deep_nesting_ends(self, content: bytes) -> None:
        """In a process of its own: what breaks here breaks the interpreter."""
        script = (
            "import sys, io; from service.models.pickles import *\n"
            "try: read_pickle(io.BytesIO(sys.stdin.buffer.read()), {})\n"
            "except UnreadablePickle: pass"
        )
        subprocess.run([sys.executable, "-c", script], input=content, check=True, timeout=60)

    def test_what_shares_its_parts_is_not_unfolded(self) -> None:
        """Each tuple holds the last one twice, and the sixtieth is a key: to hash it would take for ever."""
        doubling = b"K\x01" + b"2\x86" * 60
        began = time.monotonic()

        assert read(b"}" + doubling + b"Nsr\x01\x00\x00\x00.") == {}
        assert read(b"\x80\x04\x8f(" + doubling + b"\x90.") == set()
        assert time.monotonic() - began < 5

    def test_too_many_objects(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("service.models.pickles._MAX_OPERATIONS", 100)

        with pytest.raises(UnreadablePickle, match="too many objects"):
            read(b"]" * 1000 + b".")

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b".",
            b"R.",
            b"a.",
            b"Nb.",
            b"h\x07.",
            b"t.",
            b"NNs.",
            b"K\x01Na.",
            b"\x82\x01.",
            b"Vx\nQ.",
            b"X\xff\xff\xff\x7fab.",
        ],
        ids=repr,
    )
    def test_nonsense_is_an_error_of_ours(self, content: bytes) -> None:
        with pytest.raises(UnreadablePickle):
            read(content)

    @settings(max_examples=500)
    @given(st.binary(max_size=60))
    def test_any_bytes_raise_only_our_error(self, content: bytes) -> None:
        with contextlib.suppress(UnreadablePickle):
            read(content)

    @settings(max_examples=300)
    @given(st.data())
    def test_damaged_pickles_raise_only_our_error(self, data: st.DataObject) -> None:
        whole = bytearray(pickle.dumps({"state": [argparse.Namespace(a=1), {"k": (1, 2.0, "x")}]}, 4))
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(UnreadablePickle):
            read(bytes(whole))


class TestAmounts:
    """Little to send, and much to make of it."""

    def test_numbers_of_thousands_of_digits(self) -> None:
        assert read(pickle.dumps(2**4000)) == 2**4000
        with pytest.raises(UnreadablePickle, match="a number of thousands of digits"):
            read(pickle.dumps(2**8000))

    def test_a_name_made_of_what_is_no_text(self) -> None:
        """Written out, these tuples have 2^100 parts."""
        endless = b")" + b"q\x00h\x00\x86" * 100
        with pytest.raises(UnreadablePickle, match="by what is no text"):
            read(b"\x80\x04" + endless + b"\x8c\x01a\x93.")

    def test_more_tensors_than_any_checkpoint_has(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pickles, "_MOST_REBUILT", 1000)  # as it is, this takes seconds
        pickled = b"\x80\x02cmade\nup\nq\x00" + b"h\x00)R0" * 1001 + b"N."
        with pytest.raises(UnreadablePickle, match="too many tensors"):
            read(pickled, {"made.up": lambda: None})

    def test_more_operations_than_any_checkpoint_has(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pickles, "_MAX_OPERATIONS", 1000)
        with pytest.raises(UnreadablePickle, match="too many objects"):
            read(b"\x80\x02" + b"N0" * 501 + b"N.")
