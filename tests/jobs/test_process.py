"""A process that is told something and heard, and that of an evaluation: killed at any time, the next one goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from service.engine.worker_process import python_command
from service.errors import BodyTooLarge, InvalidOption
from service.imaging.decode import DecodeLimits
from service.jobs import process
from service.jobs.files import FOUND, REPORT, RESULT
from service.jobs.journal import Journal
from service.jobs.looking import look_at
from service.jobs.material import ANNOTATIONS, MATERIAL, PICTURES, Image, Material
from service.jobs.order import Order
from service.jobs.sent import look
from service.settings import ModelConfig, Settings
from tests.web.application import until

if TYPE_CHECKING:
    from collections.abc import Callable

SAMPLES = Path("service/demo/samples")
NAMES = ("00-disk", "01-square", "02-triangle", "03-star", "04-cross", "05-ring")


def read(file: Path | str) -> str:
    return Path(file).read_text(encoding="utf-8")


def gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return read(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


class TestHeard:
    """With a few lines of code in the place of a module's ``main``."""

    @pytest.fixture
    def run(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
        async def run(code: str) -> tuple[int, list[dict[str, Any]]]:
            def command(_module: str, descriptor: int) -> list[str]:
                start = "import os, sys, time; os.setpgid(0, 0)\n"
                start += f"pipe = os.fdopen({descriptor}, 'w')\n"
                return [python_command("x", 0)[0], "-c", start + code]

            monkeypatch.setattr(process, "python_command", command)
            told: list[dict[str, Any]] = []
            return await process.run("none", b"said", told.append), told

        return run

    async def test_what_it_says(self, run: Callable[[str], Any]) -> None:
        code = """
pipe.write('{"heard": "' + sys.stdin.read() + '"}\\nnonsense\\n[1]\\n{"last": 1}')
pipe.close()
sys.exit(3)"""
        assert await run(code) == (3, [{"heard": "said"}, {"last": 1}])

    async def test_more_than_a_line_may_have_is_passed_over(self, run: Callable[[str], Any]) -> None:
        code = "pipe.write('x' * (20 << 20) + '\\n{\"last\": 1}\\n'); pipe.close()"
        assert await run(code) == (0, [{"last": 1}])

    async def test_its_priority_counts_among_our_processes(self, run: Callable[[str], Any]) -> None:
        """Linux shares the cores between sessions first: in its own, the lowest priority would mean nothing."""
        code = """
pipe.write('{"session": %d, "group": %d}' % (os.getsid(0), os.getpgrp()))
pipe.close()"""
        _, (told,) = await run(code)
        assert told["session"] == os.getsid(0)
        assert told["group"] != os.getpgrp()

    async def test_how_it_was_killed(self, run: Callable[[str], Any]) -> None:
        assert await run("os.kill(os.getpid(), 9)") == (-9, [])

    async def test_what_it_has_started_ends_with_it(self, run: Callable[[str], Any], tmp_path: Path) -> None:
        written = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child))"
        code = f"child = os.fork()\nif child: {written}\nelse: time.sleep(100)"
        await run(code)
        child = int(read(tmp_path / "pid"))
        await until(lambda: gone(child))

    async def test_one_that_waits_for_ever_is_ended(
        self, run: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(process, "_STILL_S", 0.05)
        waiting = "import signal; pipe.write('{\"pid\": %d}\\n' % os.getpid()); pipe.flush(); signal.pause()"
        with pytest.raises(process.StoodStill, match="used no core for"):
            await run(waiting)

    async def test_one_that_computes_is_not(self, run: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(process, "_STILL_S", 0.05)
        ticks = iter(range(10_000))
        monkeypatch.setattr(process, "_ticks", lambda _pid: next(ticks))
        assert await run("time.sleep(0.15)") == (0, [])

    async def test_given_up(self, run: Callable[[str], Any], tmp_path: Path) -> None:
        code = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()) + ' ')\ntime.sleep(100)"
        running = asyncio.create_task(run(code))
        await until(lambda: (tmp_path / "pid").exists() and read(tmp_path / "pid") != "")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert gone(int(read(tmp_path / "pid")))


def prepared(folder: Path, digest: str) -> Order:
    """A folder with six scenes and their masks, and the order to evaluate them."""
    pictures = folder / PICTURES
    pictures.mkdir(parents=True)
    files = [(f"{name}.png", f"{name}.mask.png") for name in NAMES]
    for pair in files:
        for file in pair:
            (pictures / file).write_bytes((SAMPLES / file).read_bytes())
    sent = Material(
        images=tuple(Image(file=image, name=image) for image, _ in files),
        masks=tuple(Image(file=mask, name=mask) for _, mask in files),
    )
    limits = DecodeLimits(1 << 24, 1 << 24, 10)
    (pictures / MATERIAL).write_text(look_at(pictures, sent, limits).model_dump_json())
    settings = Settings(device="cpu", data_dir=folder)
    return Order.of(
        settings,
        ModelConfig(name="shapes", architecture="shapes"),
        digest=digest,
        folder=folder,
        layers=("layer2", "layer4"),
        methods=("gradcam",),
        purposes=("class", "localisation", "faithfulness"),
        seed=5,
        seconds=0.0,
        threads=1,
    )


@pytest.fixture(scope="module")
def digest() -> str:

    from service.models.loading import load_model
    from service.models.sources.source import Downloads

    settings = Settings()
    downloads = Downloads(settings.cache_dir, False, None)
    return load_model(ModelConfig(name="shapes", architecture="shapes"), "cpu", downloads).info.digest


def steps(folder: Path) -> list[str]:
    with Journal(folder / FOUND) as journal:
        return list(journal._steps)


async def worked(order: Order, kill_after: int | None = None) -> tuple[int, list[dict[str, Any]]]:
    """Run the process; kill it when it has found so much."""
    told: list[dict[str, Any]] = []

    def hear(message: dict[str, Any]) -> None:
        told.append(message)
        if kill_after is not None and message.get("found", 0) >= kill_after:
            for pid in children():
                os.kill(pid, signal.SIGKILL)

    return await process.run("service.jobs.main", order.to_json(), hear), told


def children() -> list[int]:
    """The processes of evaluations that this one has started."""
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in found if b"service.jobs.main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-2000])


@pytest.mark.slow
@pytest.mark.alone
class TestLook:
    """The process that looks at what was sent."""

    async def look(self, folder: Path, annotations: bytes) -> Any:
        prepare(folder, annotations)
        sent = Material(images=(Image(file="0", name="00-disk.png"),), annotations=True)
        return await look(folder, sent, Settings())

    async def test_what_can_be_used(self, tmp_path: Path) -> None:
        boxes = [{"image_id": 1, "bbox": [1, 2, 30, 40]}]
        assert await self.look(tmp_path, coco(boxes)) == (1, 1, ())

    async def test_a_million_annotations(self, tmp_path: Path) -> None:
        many = coco([{"image_id": 1, "bbox": [1, 2, 3, 4]}] * 1_000_000)
        with pytest.raises(InvalidOption, match=r"On 00-disk\.png there are 1,000,000 boxes"):
            await self.look(tmp_path, many)

    async def test_what_takes_much_more_memory_than_it_has_bytes(self, tmp_path: Path) -> None:
        deep = b'{"images": [], "annotations": [' + b"[[[[[[[[]]]]]]]]," * 3_500_000 + b"1]}"
        with pytest.raises((BodyTooLarge, InvalidOption)):
            await self.look(tmp_path, deep)


def prepare(folder: Path, annotations: bytes) -> None:
    (folder / ANNOTATIONS).write_bytes(annotations)
    (folder / "0").write_bytes((SAMPLES / "00-disk.png").read_bytes())


def coco(annotations: list[Any]) -> bytes:
    return json.dumps({"images": [{"id": 1, "file_name": "00-disk.png"}], "annotations": annotations}).encode()


@pytest.mark.slow
@pytest.mark.alone
class TestEvaluation:
    async def test_killed_again_and_again_it_finds_the_same_and_nothing_twice(
        self, tmp_path: Path, digest: str
    ) -> None:
        plain = prepared(tmp_path / "plain", digest)
        code, told = await worked(plain)
        assert (code, told[-1]) == (0, {"done": True})
        killed = prepared(tmp_path / "killed", digest)
        before: list[str] = []
        for kill_after in (1, 30, 30):
            code, told = await worked(killed, kill_after)
            assert code == -signal.SIGKILL
            known = steps(killed.folder)
            assert known[: len(before)] == before
            assert len(known) > len(before)
            before = known
        code, told = await worked(killed)
        assert (code, told[-1]) == (0, {"done": True})
        assert len(before) + told[-2]["found"] <= len(steps(plain.folder))  # it counts what it has computed
        found = steps(killed.folder)
        assert found[: len(before)] == before
        assert sorted(found) == sorted(steps(plain.folder))
        assert len(set(found)) == len(found)
        results = [json.loads(read(each.folder / RESULT)) for each in (plain, killed)]
        assert results[0] == results[1]
        assert read(killed.folder / REPORT).startswith("<!doctype html>")

    async def test_it_computes_where_the_cores_would_idle(self, tmp_path: Path, digest: str) -> None:
        running = asyncio.create_task(worked(prepared(tmp_path / "x", digest)))
        await until(lambda: bool(children()))
        (pid,) = children()
        await until(lambda: os.sched_getscheduler(pid) == os.SCHED_IDLE)  # from its first line on
        await until(lambda: read(f"/proc/{pid}/oom_score_adj") == "1000\n")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert children() == []

    async def test_it_ends_where_the_front_had_gone_before_it_could_notice(self) -> None:
        reading, writing = os.pipe()
        running = await asyncio.create_subprocess_exec(
            *python_command("service.jobs.main", writing),
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(writing,),
        )
        os.close(writing)
        os.close(reading)
        assert await asyncio.wait_for(running.wait(), 60) != 0  # and waits for no order

    async def test_another_model_is_not_evaluated(self, tmp_path: Path) -> None:
        code, told = await worked(prepared(tmp_path / "x", "0" * 64))
        assert code == 0
        assert told == [{}, {"failed": told[-1]["failed"]}]
        assert "have changed since this was asked for" in told[-1]["failed"]

    async def test_a_disk_that_takes_nothing(self, tmp_path: Path, digest: str) -> None:
        order = prepared(tmp_path / "x", digest)
        (order.folder / FOUND).mkdir()
        code, told = await worked(order)
        assert (code, told[-1]) == (0, {"failed": "What was found cannot be kept on the disk here: Is a directory."})

    async def test_a_picture_that_breaks_off_is_named(self, tmp_path: Path, digest: str) -> None:
        order = prepared(tmp_path / "x", digest).model_copy(update={"purposes": ("localisation",)})
        cut(order.folder / PICTURES / "00-disk.png")
        code, told = await worked(order)
        assert (code, told[-1]) == (0, {"done": True})
        result = json.loads(read(order.folder / RESULT))
        assert result["images"] == len(NAMES) - 1
        (left_out,) = [each["text"] for each in result["warnings"] if each["code"] == "picture_skipped"]
        assert left_out.startswith("00-disk.png is left out: ")
