from __future__ import annotations

import errno
import hashlib
import io
import re
import resource
import signal
import socket
import struct
import threading
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from service.errors import ModelLoadError
from service.models.loading import load_model
from service.models.sources import torchvision_models
from service.models.sources.source import Downloads
from service.models.state_dicts import digest
from service.models.torchvision_adapter import torchvision
from service.settings import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from service.models.sources.source import LoadedModel

HEAVY = {"alexnet", "vgg11", "vit_b_16", "wide_resnet50_2"}  # files of 230 to 520 MB
REPRESENTATIVES = [
    pytest.param(name, marks=pytest.mark.slow if name in HEAVY else ())
    for name in (
        "alexnet",
        "convnext_tiny",
        "densenet121",
        "efficientnet_b0",
        "googlenet",
        "inception_v3",
        "maxvit_t",
        "mnasnet0_5",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "regnet_y_400mf",
        "resnet18",
        "resnext50_32x4d",
        "shufflenet_v2_x0_5",
        "squeezenet1_0",
        "swin_t",
        "swin_v2_t",
        "vgg11",
        "vit_b_16",
        "wide_resnet50_2",
    )
]
WITH_AUXILIARY_HEADS = {"googlenet", "inception_v3"}


def build(architecture: str, classes: int, *, seed: int = 7, **options: Any) -> nn.Module:
    """A model as a user's training script would leave it."""
    torch.manual_seed(seed)
    if architecture in WITH_AUXILIARY_HEADS:
        options = {"init_weights": False, "transform_input": True, **options}
    module: nn.Module = torchvision.models.get_model(architecture, weights=None, num_classes=classes, **options)
    if architecture.startswith("vit"):
        nn.init.normal_(module.get_submodule("heads.head").get_parameter("weight"))  # it begins at zero
    return module.eval()


def image(side: int, seed: int = 3) -> Tensor:
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(seed))


def logits(module: nn.Module, side: int) -> Tensor:
    with torch.inference_mode():
        output: Tensor = module.eval()(image(side))
    return output


def load(architecture: str, weights: str | Path | None, downloads: Downloads) -> LoadedModel:
    return torchvision_models.load(ModelConfig(architecture=architecture, weights=weights and str(weights)), downloads)


class TestFiles:
    @pytest.mark.parametrize("architecture", REPRESENTATIVES)
    def test_the_number_of_classes_is_read_off_the_file(
        self, architecture: str, tmp_path: Path, offline: Downloads
    ) -> None:
        trained, file = build(architecture, classes=7), tmp_path / "w.safetensors"
        save_file(trained.state_dict(), file)

        loaded = load(architecture, file, offline)
        file.unlink()

        side = loaded.preprocess.height
        expected = logits(trained, side)
        assert expected.shape == (1, 7)
        assert len(set(expected[0].tolist())) == 7
        assert torch.equal(logits(loaded.module, side), expected)

    @pytest.mark.parametrize("architecture", sorted(WITH_AUXILIARY_HEADS))
    def test_auxiliary_heads_may_be_missing(self, architecture: str, tmp_path: Path, offline: Downloads) -> None:
        trained = build(architecture, classes=7, aux_logits=False)
        torch.save(trained.state_dict(), tmp_path / "w.pth")

        loaded = load(architecture, tmp_path / "w.pth", offline)

        assert torch.equal(logits(loaded.module, 299), logits(trained, 299))

    def test_a_file_of_1000_classes_is_taken_to_be_published_weights(self, tmp_path: Path, offline: Downloads) -> None:
        """Published GoogLeNet and Inception weights expect inputs that are rescaled inside the model."""
        trained = build("googlenet", classes=1000, aux_logits=False, transform_input=True)
        save_file(trained.state_dict(), tmp_path / "w.safetensors")

        loaded = load("googlenet", tmp_path / "w.safetensors", offline)

        assert torch.equal(logits(loaded.module, 224), logits(trained, 224))
        assert loaded.labels is not None
        assert loaded.labels[207] == "golden retriever"
        assert [warning.code for warning in loaded.warnings] == ["transform_input_assumed", "labels_assumed"]

    @pytest.mark.parametrize("architecture", sorted(WITH_AUXILIARY_HEADS))
    def test_auxiliary_heads_may_have_been_left_alone(
        self, architecture: str, tmp_path: Path, offline: Downloads
    ) -> None:
        """Fine-tuning that replaces ``fc`` alone leaves the others with 1000 outputs; evaluation runs none of them."""
        trained = build(architecture, classes=1000)
        trained.fc = nn.Linear(trained.get_submodule("fc").get_parameter("weight").shape[1], 4)
        torch.save({"state_dict": trained.state_dict()}, tmp_path / "w.pth")

        loaded = load(architecture, tmp_path / "w.pth", offline)

        expected = logits(trained, 299)
        assert expected.shape == (1, 4)
        assert torch.equal(logits(loaded.module, 299), expected)

    def test_a_vits_input_size_is_read_off_the_file(self, tmp_path: Path, offline: Downloads) -> None:
        module = build("vit_b_32", 7, image_size=96)
        save_file(module.state_dict(), tmp_path / "vit.safetensors")
        loaded = load("vit_b_32", tmp_path / "vit.safetensors", offline)
        assert (loaded.preprocess.height, loaded.preprocess.width, loaded.preprocess.resize) == (96, 96, 96)
        assert torch.equal(logits(loaded.module, 96), logits(module, 96))

    def test_the_version_is_the_files_digest(self, tmp_path: Path, offline: Downloads) -> None:
        file = tmp_path / "w.safetensors"
        save_file(build("squeezenet1_1", classes=7).state_dict(), file)

        assert load("squeezenet1_1", file, offline).version == digest(file)

    def test_images_are_prepared_as_fine_tuning_recipes_do(self, tmp_path: Path, offline: Downloads) -> None:
        save_file(build("mobilenet_v2", classes=7).state_dict(), tmp_path / "w.safetensors")

        spec = load("mobilenet_v2", tmp_path / "w.safetensors", offline).preprocess

        assert (spec.mode, spec.resize, spec.height, spec.width) == ("crop", 256, 224, 224)
        assert (spec.mean, spec.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def test_weights_of_another_architecture(self, tmp_path: Path, offline: Downloads) -> None:
        save_file(build("squeezenet1_1", classes=7).state_dict(), tmp_path / "w.safetensors")

        with pytest.raises(
            ModelLoadError, match=r"w\.safetensors does not fit the architecture: it has .* and lacks conv1\.weight"
        ):
            load("resnet18", tmp_path / "w.safetensors", offline)

    def test_a_sibling_with_the_same_names_and_other_widths(self, tmp_path: Path, offline: Downloads) -> None:
        save_file(build("shufflenet_v2_x0_5", classes=7).state_dict(), tmp_path / "w.safetensors")

        with pytest.raises(ModelLoadError, match=r"does not fit the architecture: stage2.* should be 58"):
            load("shufflenet_v2_x1_0", tmp_path / "w.safetensors", offline)

    def test_neither_a_file_nor_an_entry(self, offline: Downloads) -> None:
        with pytest.raises(ModelLoadError, match="There is no weights file IMAGENET1K_V9"):
            load("squeezenet1_1", "IMAGENET1K_V9", offline)


class TestLabels:
    @pytest.fixture
    def weights(self, tmp_path: Path) -> str:
        save_file(build("squeezenet1_1", classes=7).state_dict(), tmp_path / "w.safetensors")
        return str(tmp_path / "w.safetensors")

    def config(self, weights: str, **fields: Any) -> ModelConfig:
        return ModelConfig(name="birds", architecture="squeezenet1_1", weights=weights, size=64, **fields)

    def test_come_from_the_file_that_is_named(self, weights: str, tmp_path: Path, offline: Downloads) -> None:
        birds = ("wren", "robin", "owl", "jay", "heron", "kite", "rook")
        (tmp_path / "birds.txt").write_text("\n".join(birds))

        info = load_model(self.config(weights, labels=tmp_path / "birds.txt"), "cpu", offline).info

        assert info.labels == birds

    def test_are_numbers_where_nobody_knows_them(self, weights: str, offline: Downloads) -> None:
        info = load_model(self.config(weights), "cpu", offline).info

        assert info.labels == ("class 0", "class 1", "class 2", "class 3", "class 4", "class 5", "class 6")

    def test_of_a_thousand_classes_are_imagenets(self, tmp_path: Path, offline: Downloads) -> None:
        save_file(build("squeezenet1_1", classes=1000).state_dict(), tmp_path / "w.safetensors")

        labels = load_model(self.config(str(tmp_path / "w.safetensors")), "cpu", offline).info.labels

        assert len(labels) == 1000
        assert (labels[0], labels[281], labels[999]) == ("tench", "tabby", "toilet tissue")

    @pytest.mark.parametrize(
        ("count", "way_out"), [(6, ""), (8, r" Is its first one a heading, or a class for the background\?"), (9, "")]
    )
    def test_must_be_as_many_as_there_are_classes(
        self, count: int, way_out: str, weights: str, tmp_path: Path, offline: Downloads
    ) -> None:
        (tmp_path / "birds.txt").write_text("\n".join(f"bird {index}" for index in range(count)))

        with pytest.raises(ModelLoadError, match=rf"'birds' has 7 classes, but birds\.txt names {count}\.{way_out}$"):
            load_model(self.config(weights, labels=tmp_path / "birds.txt"), "cpu", offline)


class TestRandom:
    def test_is_the_same_at_every_start(self, offline: Downloads) -> None:
        first = load("mnasnet0_5", "random", offline)
        torch.rand(5)
        second = load("mnasnet0_5", "random", offline)

        assert torch.equal(logits(first.module, 64), logits(second.module, 64))
        assert first.version == "random"

    @pytest.mark.parametrize("architecture", ["vit_b_16", "resnet18"])
    def test_classes_differ(self, architecture: str, offline: Downloads) -> None:
        """A ViT's head begins at zero, a ResNet's does not."""
        assert len(set(logits(load(architecture, "random", offline).module, 224)[0].tolist())) > 900

    def test_an_input_size_that_the_architecture_refuses(self, offline: Downloads) -> None:
        config = ModelConfig(architecture="vit_b_16", weights="random", size=96)

        with pytest.raises(ModelLoadError, match="cannot compute a picture of 96×96 pixels: Wrong image height"):
            load_model(config, "cpu", offline)


# -- downloads --------------------------------------------------------------------------------------------------------

ENTRY = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1


@dataclass
class Site:
    """A download site: what it has, how it misbehaves, and what it was asked for."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    raw_answer: bytes | None = None
    missing_bytes: int = 0
    resets: bool = False
    stalls: bool = False
    resumed: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)

    def publish(self, state: dict[str, Tensor], checksum: str | None = None) -> str:
        """Offer ``state`` under a name that ends with its checksum, or another's; return the name."""
        stream = io.BytesIO()
        torch.save(state, stream)
        content = stream.getvalue()
        name = f"squeezenet1_1-{checksum or hashlib.sha256(content).hexdigest()[:8]}.pth"
        self.files[f"/mirror/{name}"] = content
        return name


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            if site.raw_answer is not None:
                self.wfile.write(site.raw_answer)
                return
            content = site.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) - site.missing_bytes])
            if site.stalls:
                site.resumed.wait(60)
            if site.resets:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()  # with no time to linger: what was sent and not yet read is lost

        def log_message(self, *_arguments: Any) -> None:
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        site.url = f"http://127.0.0.1:{server.server_port}/mirror"
        yield site
        site.resumed.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def published(site: Site, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The model whose weights torchvision's SqueezeNet entry names, for the time of a test."""
    module = build("squeezenet1_1", classes=1000)
    name = site.publish(module.state_dict())
    monkeypatch.setattr(ENTRY.value, "url", f"https://download.pytorch.org/models/{name}")
    return module


@pytest.fixture
def downloads(site: Site, tmp_path: Path) -> Downloads:
    return Downloads(tmp_path / "not" / "there" / "yet", mirror=site.url)


INSTEAD = r"Give a local file instead: --model squeezenet1_1:FILE\.safetensors\."


class TestDownloads:
    def test_weights_are_fetched_once(self, site: Site, published: nn.Module, downloads: Downloads) -> None:
        first = load("squeezenet1_1", None, downloads)
        asked = list(site.asked)
        site.files.clear()
        second = load("squeezenet1_1", None, replace(downloads, allowed=False))

        assert asked == site.asked == list(asked[:1])
        assert torch.equal(logits(first.module, 64), logits(published, 64))
        assert torch.equal(logits(second.module, 64), logits(published, 64))
        assert [file.name for file in downloads.cache_dir.iterdir()] == [asked[0].rpartition("/")[2]]
        assert first.version == "IMAGENET1K_V1"
        assert first.labels is not None
        assert first.labels[281] == "tabby"

    @pytest.mark.parametrize("slash", ["", "/"])
    @pytest.mark.usefixtures("published")
    def test_the_mirrors_url_may_end_with_a_slash(self, slash: str, site: Site, downloads: Downloads) -> None:
        load("squeezenet1_1", "IMAGENET1K_V1", replace(downloads, mirror=site.url + slash))

        assert len(site.asked) == 1

    @pytest.mark.parametrize(("entry", "resize"), [("IMAGENET1K_V1", 256), ("IMAGENET1K_V2", 232), (None, 232)])
    def test_every_entry_has_its_own_preprocessing_and_version(
        self,
        entry: str | None,
        resize: int,
        site: Site,
        downloads: Downloads,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        entries = torchvision.models.MobileNet_V2_Weights
        name = site.publish(build("mobilenet_v2", classes=1000).state_dict())
        chosen = entries[entry] if entry else entries.DEFAULT
        monkeypatch.setattr(chosen.value, "url", f"https://download.pytorch.org/models/{name}")

        loaded = load("mobilenet_v2", entry, downloads)

        assert loaded.preprocess.resize == resize
        assert loaded.version == (entry or "IMAGENET1K_V2")

    def test_every_published_file_is_on_the_site_and_names_its_checksum(self) -> None:
        urls = [
            entry.url
            for name in torchvision_models.architectures()
            for entry in torchvision.models.get_model_weights(name)
        ]

        assert len(urls) > 80
        assert [
            url for url in urls if not re.fullmatch(rf"{torchvision_models._SITE}/[^/]+-[0-9a-f]{{8,64}}\.pth", url)
        ] == []


@pytest.mark.usefixtures("published")
class TestFailingDownloads:
    def test_another_file_than_the_checksum_says(
        self, site: Site, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name = site.publish(build("squeezenet1_1", classes=1000, seed=8).state_dict(), checksum="b8a52dc0")
        monkeypatch.setattr(ENTRY.value, "url", f"https://download.pytorch.org/models/{name}")

        with pytest.raises(ModelLoadError, match=rf"has not the checksum b8a52dc0.*Try again\. {INSTEAD}"):
            load("squeezenet1_1", None, downloads)

        assert list(downloads.cache_dir.iterdir()) == []

    def test_a_transfer_that_breaks_off(self, site: Site, downloads: Downloads) -> None:
        site.missing_bytes = 1000

        with pytest.raises(ModelLoadError, match=rf"broke off after [\d,]+ of [\d,]+ bytes\. Try again\. {INSTEAD}"):
            load("squeezenet1_1", None, downloads)

        assert list(downloads.cache_dir.iterdir()) == []

    def test_a_connection_that_is_reset(self, site: Site, downloads: Downloads) -> None:
        site.missing_bytes, site.resets = 1000, True

        with pytest.raises(ModelLoadError, match=rf"cannot be reached \(.*reset by peer\)\. {INSTEAD}"):
            load("squeezenet1_1", None, downloads)

        assert list(downloads.cache_dir.iterdir()) == []

    def test_after_a_failure_the_next_try_succeeds(self, site: Site, downloads: Downloads) -> None:
        site.missing_bytes = 1
        with pytest.raises(ModelLoadError):
            load("squeezenet1_1", None, downloads)

        site.missing_bytes = 0

        assert load("squeezenet1_1", None, downloads).version == "IMAGENET1K_V1"

    def test_the_site_does_not_have_it(self, site: Site, downloads: Downloads) -> None:
        site.files.clear()

        with pytest.raises(ModelLoadError, match=rf"{site.url}/squeezenet1_1-\w+\.pth cannot be reached \(Not Found\)"):
            load("squeezenet1_1", None, downloads)

        assert list(downloads.cache_dir.iterdir()) == []

    @pytest.mark.parametrize("answer", [b"", b"this is not HTTP\r\n\r\n"], ids=["hangs up", "speaks something else"])
    def test_the_site_is_no_web_server(self, answer: bytes, site: Site, downloads: Downloads) -> None:
        site.raw_answer = answer

        with pytest.raises(ModelLoadError, match=f"cannot be reached .*{INSTEAD}"):
            load("squeezenet1_1", None, downloads)

    def test_nobody_answers(self, downloads: Downloads) -> None:
        with socket.socket() as bound:  # bound and not listening: connections are refused
            bound.bind(("127.0.0.1", 0))
            nobody = replace(downloads, mirror=f"http://127.0.0.1:{bound.getsockname()[1]}")

            with pytest.raises(ModelLoadError, match=f"cannot be reached .*[Rr]efused.*{INSTEAD}"):
                load("squeezenet1_1", None, nobody)

    def test_downloads_are_off(self, site: Site, downloads: Downloads) -> None:
        off = replace(downloads, allowed=False)

        with pytest.raises(
            ModelLoadError, match=f"weights of 'squeezenet1_1' are not in .*, and downloads are off. {INSTEAD}"
        ):
            load("squeezenet1_1", None, off)

        assert site.asked == []
        assert not downloads.cache_dir.exists()

    def test_there_is_no_place_to_keep_it(self, downloads: Downloads, tmp_path: Path) -> None:
        (tmp_path / "file").touch()

        with pytest.raises(ModelLoadError, match=rf"weights of 'squeezenet1_1' .*cannot be kept in .*file.*{INSTEAD}"):
            load("squeezenet1_1", None, replace(downloads, cache_dir=tmp_path / "file"))

    def test_a_site_that_stalls(self, site: Site, downloads: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("service.models.sources.download._STALL_S", 0.3)
        site.missing_bytes, site.stalls = 1000, True

        with pytest.raises(ModelLoadError, match=rf"sent nothing for 0\.3 s\. Try again\. {INSTEAD}"):
            load("squeezenet1_1", None, downloads)

        assert list(downloads.cache_dir.iterdir()) == []

    def test_a_site_that_does_not_even_answer(self, downloads: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("service.models.sources.download._STALL_S", 0.3)
        with socket.create_server(("127.0.0.1", 0)) as mute:  # connects, and that is all
            silent = replace(downloads, mirror=f"http://127.0.0.1:{mute.getsockname()[1]}")

            with pytest.raises(ModelLoadError, match=rf"sent nothing for 0\.3 s.*{INSTEAD}"):
                load("squeezenet1_1", None, silent)

    def test_an_error_of_the_site_in_the_place_of_a_length(self, site: Site, downloads: Downloads) -> None:
        site.raw_answer = b"HTTP/1.0 200 OK\r\nContent-Length: many\r\n\r\nx"

        with pytest.raises(ModelLoadError, match=f"cannot be reached .*{INSTEAD}"):
            load("squeezenet1_1", None, downloads)

    def test_the_disk_is_full(self, published: nn.Module, downloads: Downloads) -> None:
        """A limit on the size of files in place of a small disk: the write fails half-way, as on a full one."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, before[1]))
        try:
            with pytest.raises(ModelLoadError, match=rf"\.pth cannot be kept in .*File too large\. {INSTEAD}"):
                load("squeezenet1_1", None, downloads)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)
        assert list(downloads.cache_dir.iterdir()) == [], "the half of a file is removed"

        assert torch.equal(logits(load("squeezenet1_1", None, downloads).module, 64), logits(published, 64))

    def test_no_space_is_left_when_the_last_bytes_are_flushed(
        self, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Full(io.BytesIO):
            def flush(self) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            def close(self) -> None:
                self.flush()

        monkeypatch.setattr("pathlib.Path.open", lambda *_args, **_options: Full())

        with pytest.raises(ModelLoadError, match=rf"cannot be kept in .*: No space left on device\. {INSTEAD}"):
            load("squeezenet1_1", None, downloads)

        assert list(downloads.cache_dir.iterdir()) == []

    def test_half_a_file_under_the_right_name_is_told(self, downloads: Downloads) -> None:
        """Not ours, but of whoever copied it there."""
        load("squeezenet1_1", None, downloads)
        (cached,) = downloads.cache_dir.iterdir()
        cached.write_bytes(cached.read_bytes()[:1_000_000])

        with pytest.raises(ModelLoadError, match=cached.name):
            load("squeezenet1_1", None, downloads)


def test_a_mirror_may_be_a_folder(site: Site, published: nn.Module, tmp_path: Path) -> None:
    ((path, content),) = site.files.items()
    name = path.rpartition("/")[2]
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / name).write_bytes(content)
    folder = Downloads(tmp_path / "cache", mirror=f"file://{tmp_path}/mirror")

    assert torch.equal(logits(load("squeezenet1_1", None, folder).module, 64), logits(published, 64))

    (tmp_path / "mirror" / name).write_bytes(content[:-1])
    (tmp_path / "cache" / name).unlink()
    with pytest.raises(ModelLoadError, match=f"has not the checksum .*{INSTEAD}"):
        load("squeezenet1_1", None, folder)
    (tmp_path / "mirror" / name).unlink()
    with pytest.raises(ModelLoadError, match=f"cannot be reached .*No such file.*{INSTEAD}"):
        load("squeezenet1_1", None, folder)
