from __future__ import annotations

import argparse
import copy
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from service.errors import ModelLoadError
from service.models.checkpoints import read_checkpoint
from service.models.pickles import Inert

FORMATS = pytest.mark.parametrize("new", [True, False], ids=["zip", "before zip"])


def save(content: object, file: Path, *, new: bool = True, protocol: int = 2) -> Path:
    torch.save(content, file, _use_new_zipfile_serialization=new, pickle_protocol=protocol)
    return file


def assert_same(read: Tensor, expected: Tensor) -> None:
    assert read.dtype == expected.dtype
    assert torch.equal(read, expected)


def outcome_of(file: Path) -> Any:
    """What was read, or the message that says why not."""
    try:
        return read_checkpoint(file)
    except ModelLoadError as error:
        return error.message


class TestTensors:
    @FORMATS
    @pytest.mark.parametrize("protocol", [2, 4, 5])
    def test_are_what_was_saved(self, new: bool, protocol: int, tmp_path: Path) -> None:
        state = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()

        read = read_checkpoint(save(state, tmp_path / "w.pth", new=new, protocol=protocol))

        assert list(read) == list(state)
        for key, value in state.items():
            assert_same(read[key], value)

    @FORMATS
    @pytest.mark.parametrize(
        "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8]
    )
    def test_of_any_type(self, dtype: torch.dtype, new: bool, tmp_path: Path) -> None:
        values = torch.tensor([[1, -2, 3], [4, 5, -6]]).to(dtype)

        assert_same(read_checkpoint(save([values], tmp_path / "w.pth", new=new))[0], values)

    @pytest.mark.parametrize("dtype", [torch.uint16, torch.float8_e4m3fn])
    def test_of_types_that_came_later(self, dtype: torch.dtype, tmp_path: Path) -> None:
        values = torch.tensor([1.0, 2.0, 3.0]).to(dtype)

        (read,) = read_checkpoint(save([values], tmp_path / "w.pth"))

        assert read.dtype == dtype
        assert read.float().tolist() == [1, 2, 3]

    @FORMATS
    def test_views_of_one_storage(self, new: bool, tmp_path: Path) -> None:
        whole = torch.arange(24.0).view(4, 6)
        views = [whole, whole.t(), whole[1:, ::2], whole[2], torch.empty(0, 3), whole[0, 0]]

        read = read_checkpoint(save(views, tmp_path / "w.pth", new=new))

        for found, expected in zip(read, views, strict=True):
            assert_same(found, expected)
        assert read[0].data_ptr() == read[1].data_ptr()

    @FORMATS
    def test_parameters_and_tensors_with_attributes(self, new: bool, tmp_path: Path) -> None:
        parameter, marked = nn.Parameter(torch.ones(2)), torch.zeros(2)
        marked.origin = "ImageNet"  # type: ignore[attr-defined]

        read = read_checkpoint(save({"a": parameter, "b": marked}, tmp_path / "w.pth", new=new))

        assert_same(read["a"], torch.ones(2))
        assert_same(read["b"], torch.zeros(2))

    def test_that_share_one_number_stay_outside(self, tmp_path: Path) -> None:
        """They claim a size that is not in the file; whatever is built to it would take all memory."""
        read = read_checkpoint(save({"fc.weight": torch.ones(1).expand(10**9, 512)}, tmp_path / "w.pth"))

        assert isinstance(read["fc.weight"], Inert)

    def test_of_safetensors_whatever_the_files_name(self, tmp_path: Path) -> None:
        save_file({"a": torch.ones(2)}, tmp_path / "w.pth")

        assert_same(read_checkpoint(tmp_path / "w.pth")["a"], torch.ones(2))


class TestWhatTrainersAdd:
    @FORMATS
    def test_stays_inert(self, new: bool, tmp_path: Path) -> None:
        net = nn.Linear(2, 2)
        optimizer = torch.optim.Adam(net.parameters())
        net(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        content = {
            "args": argparse.Namespace(lr=0.1),
            "best": np.float64(0.9),
            "out": Path("runs"),
            "optimizer": optimizer.state_dict(),
            "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3),
            "rng": torch.get_rng_state(),
            "model": net.state_dict(),
            "epoch": 7,
        }

        read = read_checkpoint(save(content, tmp_path / "w.pth", new=new))

        assert_same(read["model"]["weight"], net.weight.detach())
        assert_same(read["rng"], torch.get_rng_state())
        assert (read["epoch"], read["args"].state, read["best"].name.rpartition(".")[2]) == (7, {"lr": 0.1}, "scalar")
        assert_same(read["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])

    @FORMATS
    def test_a_whole_model_is_its_description(self, new: bool, tmp_path: Path) -> None:
        read = read_checkpoint(save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "w.pth", new=new))

        assert read.name == "torch.nn.modules.container.Sequential"
        assert "_modules" in read.state


class Settings(dict[str, Any]):
    """A mapping of a configuration library's."""


class Exploit:
    """Unpickling it creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def crafted(file: Path, pickled: bytes, *, data: bytes = bytes(64), compression: int = zipfile.ZIP_STORED) -> Path:
    """A checkpoint as nobody saves it."""
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", data)
    return file


def tensor(size: bytes, stride: bytes, offset: bytes = b"K\x00", name: bytes = b"_rebuild_tensor_v2") -> bytes:
    """A pickle of one tensor on a storage of 16 floats."""
    storage = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nK\x10tQ"
    return b"\x80\x02ctorch._utils\n" + name + b"\n(" + storage + offset + size + stride + b"\x89}tR."


class TestHostile:
    @FORMATS
    def test_pickled_code_is_not_run(self, new: bool, tmp_path: Path) -> None:
        mark = tmp_path / "was-here"
        file = save({"state_dict": {"a": torch.ones(2)}, "extra": Exploit(mark)}, tmp_path / "w.pth", new=new)

        assert_same(read_checkpoint(file)["state_dict"]["a"], torch.ones(2))

        assert not mark.exists()
        torch.load(file, weights_only=False)  # the file is armed: whoever trusts it, runs it
        assert mark.exists()

    def test_a_crafted_tensor_is_read(self, tmp_path: Path) -> None:
        """So that the next ones are refused for their one mistake."""
        file = crafted(tmp_path / "w.pth", tensor(b"K\x04K\x04\x86", b"K\x04K\x01\x86"))

        assert read_checkpoint(file).shape == (4, 4)

    @pytest.mark.parametrize(
        "pickled",
        [
            tensor(b"K\x04K\x04\x86", b"K\x04K\x01\x86", offset=b"K\x01"),
            tensor(b"K\x04K\x04\x86", b"K\x05K\x01\x86"),
            tensor(b"K\x02K\x04\x86", b"J\xff\xff\xff\xffK\x01\x86"),
            tensor(b"J\xff\xff\xff\xffK\x04\x86", b"K\x04K\x01\x86"),
            tensor(b"K\x04K\x04\x86", b"K\x04K\x01\x86", offset=b"J\xf0\xff\xff\xff"),
            tensor(b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85", b"K\x01\x85", offset=b"K\x01"),
            tensor(b"Vmany\n", b"K\x01\x85"),
        ],
        ids=["offset", "stride", "backwards", "negative size", "before the storage", "overflow", "no numbers"],
    )
    def test_no_tensor_reaches_beyond_its_storage(self, pickled: bytes, tmp_path: Path) -> None:
        outcome = outcome_of(crafted(tmp_path / "w.pth", pickled))

        assert isinstance(outcome, Inert) or "w.pth is damaged" in outcome

    @pytest.mark.parametrize(
        "name", [b"_rebuild_wrapper_subclass", b"_rebuild_sparse_tensor", b"_import_dotted_name", b"_rebuild_qtensor"]
    )
    def test_other_functions_of_torch_are_not_called(self, name: bytes, tmp_path: Path) -> None:
        file = crafted(tmp_path / "w.pth", tensor(b"K\x04K\x04\x86", b"K\x04K\x01\x86", name=name))

        assert read_checkpoint(file).name == f"torch._utils.{name.decode()}"

    def test_a_zip_bomb(self, tmp_path: Path) -> None:
        zeros = bytes(200_000_000)
        file = crafted(tmp_path / "w.pth", pickle.dumps({}), data=zeros, compression=zipfile.ZIP_DEFLATED)

        with pytest.raises(ModelLoadError, match=r"w\.pth was compressed after it was saved"):
            read_checkpoint(file)

    def test_a_compressed_record_beside_others(self, tmp_path: Path) -> None:
        """Together they are no larger than the file."""
        file = tmp_path / "w.pth"
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", tensor(b"K\x04K\x04\x86", b"K\x04K\x01\x86"))
            archive.writestr("archive/data/0", bytes(64), zipfile.ZIP_DEFLATED)
            archive.writestr("archive/filler", bytes(1000))

        with pytest.raises(ModelLoadError, match=r"w\.pth was compressed after it was saved"):
            read_checkpoint(file)

    def test_records_that_share_their_bytes(self, tmp_path: Path) -> None:
        file = tmp_path / "w.pth"
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({}))
            archive.writestr("archive/data/0", bytes(1000))
            for index in range(1, 50):  # further names for the same place
                entry = copy.copy(archive.infolist()[1])
                entry.filename = f"archive/data/{index}"
                archive.filelist.append(entry)
                archive.NameToInfo[entry.filename] = entry

        with pytest.raises(ModelLoadError, match=r"w\.pth is damaged: it unpacks to more than its size"):
            read_checkpoint(file)

    @FORMATS
    @pytest.mark.parametrize("kind", ["dict", "list", "tuple", "mapping"])
    def test_what_contains_itself(self, kind: str, new: bool, tmp_path: Path) -> None:
        whole: Any = {"dict": {}, "list": [], "tuple": ([],), "mapping": Settings()}[kind]
        if isinstance(whole, dict):
            whole["weights"], whole["self"] = torch.ones(2), {"again": whole}
        else:
            (whole if kind == "list" else whole[0]).append(whole)
        file = save({"state_dict": whole}, tmp_path / "w.pth", new=new)

        with pytest.raises(ModelLoadError, match=r"w\.pth holds a \w+ that contains itself\. Save the weights alone"):
            read_checkpoint(file)

    def test_an_object_whose_attributes_lead_back_to_it_is_read(self, tmp_path: Path) -> None:
        """As of a trainer that the file was saved with: attributes are not looked through."""
        args = argparse.Namespace(lr=0.1)
        args.parent = args

        assert read_checkpoint(save({"args": args, "a": torch.ones(2)}, tmp_path / "w.pth"))["a"].shape == (2,)

    def test_dicts_within_dicts_without_end(self, tmp_path: Path) -> None:
        pickled = b"\x80\x02" + b"}Va\n" * 100_000 + b"}" + b"s" * 100_000 + b"."

        with pytest.raises(
            ModelLoadError, match=r"w\.pth holds dicts, lists or tuples more than 200 within each other"
        ):
            read_checkpoint(crafted(tmp_path / "w.pth", pickled))

    def test_what_is_shared_is_looked_at_once(self, tmp_path: Path) -> None:
        """There are 2^150 ways to the innermost list."""
        whole: list[Any] = []
        for _ in range(150):
            whole = [whole, whole]

        assert read_checkpoint(save({"a": torch.ones(2), "b": whole}, tmp_path / "w.pth"))["a"].shape == (2,)

    @pytest.mark.parametrize("place", ["key", "kind"])
    def test_names_that_take_for_ever_to_hash_or_to_print(self, place: str, tmp_path: Path) -> None:
        endless = b")" + b"q\x00h\x00\x86" * 100
        storage = b"(Vstorage\n" + (b"ctorch\nFloatStorage\n" + endless if place == "key" else endless + b"V0\n")
        pickled = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"Vcpu\nK\x10tQK\x00))\x89}tR."

        with pytest.raises(ModelLoadError, match=r"w\.pth is damaged: it"):
            read_checkpoint(crafted(tmp_path / "w.pth", pickled))

    def test_a_safetensors_file_of_more_tensors_than_any_network_has(self, tmp_path: Path) -> None:
        """A million without a number in them take 18 seconds and 1.3 GB."""
        header = json.dumps(
            {str(key): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for key in range(200_000)}
        )
        file = tmp_path / "w.safetensors"
        file.write_bytes(len(header).to_bytes(8, "little") + header.encode())

        with pytest.raises(ModelLoadError, match="it holds too many tensors"):
            read_checkpoint(file)

    def test_a_tensor_of_a_thousand_axes(self, tmp_path: Path) -> None:
        pickled = tensor(b"(" + b"K\x01" * 1000 + b"t", b"(" + b"K\x01" * 1000 + b"t")

        with pytest.raises(ModelLoadError, match=r"w\.pth is damaged: it has a tensor of more than 64 axes"):
            read_checkpoint(crafted(tmp_path / "w.pth", pickled))

    @FORMATS
    def test_what_claims_more_than_it_has_costs_no_memory(self, new: bool, tmp_path: Path) -> None:
        """A few bytes that claim 40 GB, read where there are two."""
        file = save({"a": torch.ones(10)}, tmp_path / "w.pth", new=new)
        content = file.read_bytes()
        if new:
            with zipfile.ZipFile(file) as archive:
                pickled = archive.read("w/data.pkl")
            crafted(file, pickled.replace(b"K\x0a", b"J\xff\xff\xff\x7f"))
        else:
            file.write_bytes(content.replace(b"K\x0aNtq", b"J\xff\xff\xff\x7fNtq"))
            assert file.read_bytes() != content
        limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))\n"
        script = (
            "import sys; from pathlib import Path; from service.models.checkpoints import read_checkpoint\n"
            "from service.errors import ModelLoadError\n"
            f"{limit}"
            "try: print(read_checkpoint(Path(sys.argv[1])))\n"
            "except ModelLoadError as error: print(error.message)\n"
            # Not getrusage: there, a process begins with what its parent had.
            "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
        )

        output = subprocess.run([sys.executable, "-c", script, file], capture_output=True, text=True, check=True)

        assert "w.pth is damaged" in output.stdout or "Inert" in output.stdout
        assert int(output.stdout.split()[-2]) < 1_500_000  # kB

    def test_keys_outside_the_archive(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes(bytes(64))
        file = crafted(tmp_path / "w.pth", tensor(b"K\x04\x85", b"K\x01\x85").replace(b"V0\n", b"V../../secret\n"))

        with pytest.raises(ModelLoadError, match=r"w\.pth is damaged"):
            read_checkpoint(file)


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The same two tensors in every format."""
    folder = tmp_path_factory.mktemp("whole")
    state = {"a": torch.ones(200), "b": torch.zeros(3, 3)}
    save_file(state, folder / "safetensors")
    save(state, folder / "zip")
    save(state, folder / "old", new=False)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


class TestDamaged:
    @pytest.mark.parametrize("kind", ["safetensors", "zip", "old"])
    @pytest.mark.parametrize("kept", [0.0, 0.03, 0.1, 0.4, 0.5, 0.8, 0.99])
    def test_cut_off(self, kind: str, kept: float, contents: dict[str, bytes], tmp_path: Path) -> None:
        (tmp_path / "w.pth").write_bytes(contents[kind][: int(kept * len(contents[kind]))])

        with pytest.raises(ModelLoadError, match=r"w\.pth is (empty|cut off|damaged|neither)"):
            read_checkpoint(tmp_path / "w.pth")

    @pytest.mark.parametrize("kind", ["zip", "old"])
    def test_any_byte_may_be_wrong(self, kind: str, contents: dict[str, bytes], tmp_path: Path) -> None:
        """Either it is told, or the byte was of no importance, or it was a number: no format but zip has checksums."""
        whole = contents[kind]
        for position in range(0, len(whole), 11):
            damaged = bytearray(whole)
            damaged[position] ^= 0x55
            (tmp_path / "w.pth").write_bytes(damaged)
            outcome = outcome_of(tmp_path / "w.pth")
            if isinstance(outcome, dict) and kind == "zip" and outcome.keys() == {"a", "b"}:
                assert outcome["a"].sum() == 200
            assert not isinstance(outcome, str) or "w.pth" in outcome

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match=r"There is no weights file .*nowhere\.pth"):
            read_checkpoint(tmp_path / "nowhere.pth")

    def test_a_path_that_no_file_can_have(self) -> None:
        with pytest.raises(ModelLoadError, match="There is no weights file"):
            read_checkpoint(Path("w\0.pth"))

    def test_not_allowed_to_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        save({}, tmp_path / "w.pth")
        monkeypatch.setattr(Path, "open", refuse)

        with pytest.raises(ModelLoadError, match=r"w\.pth cannot be read: Permission denied"):
            read_checkpoint(tmp_path / "w.pth")

    def test_of_another_byte_order(self, tmp_path: Path) -> None:
        file = crafted(tmp_path / "w.pth", pickle.dumps({}))
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("archive/byteorder", "big")

        with pytest.raises(ModelLoadError, match="another byte order"):
            read_checkpoint(file)
