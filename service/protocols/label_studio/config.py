"""The labelling configuration of a project: its pictures, and the controls that can be filled in for them.

It is XML that strangers write: a document type, and with it every entity, is refused, and nothing in it is looked up.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING
from xml.parsers import expat

from service.errors import InvalidOption, shorten
from service.labelling.labels import ProjectLabel
from service.options import Options

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Control", "ImageTag", "Labelling", "parse_config"]

_MAX_CHARACTERS = 1_000_000
_MAX_DEPTH = 200

# Tags that can be filled in, in lower case, each with the tag of its labels.
_CONTROLS = {
    "choices": "choice",
    "rectanglelabels": "label",
    "polygonlabels": "label",
    "brushlabels": "label",
    "bitmasklabels": "label",
    "keypointlabels": "label",
    "textarea": "",
}


@dataclass(frozen=True)
class ImageTag:
    """An ``<Image>``.

    Attributes:
        name: how controls call it.
        value: where a task has its address, ``$image``, or that address.
        several: whether there is a list of them (``valueList``).
    """

    name: str
    value: str
    several: bool


@dataclass(frozen=True)
class Control:
    """A tag that can be filled in.

    Attributes:
        type: the tag in lower case, as results call it.
        name: of the tag.
        image: the picture that it is about.
        labels: what it offers; none for texts.
        several: of choices: whether more than one may be chosen.
        per_item: of choices: whether they are about one picture of a list.
        threshold: of choices: the probability from which on each is chosen, where the tag says so.
        interactive_only: whether only people use it, to ask.
    """

    type: str
    name: str
    image: str
    labels: tuple[ProjectLabel, ...]
    several: bool = False
    per_item: bool = False
    threshold: float | None = None
    interactive_only: bool = False


@dataclass(frozen=True)
class Labelling:
    """What a configuration asks for.

    Attributes:
        images: its pictures, by name.
        controls: those about a picture, in their order.
        threshold: share of the map's maximum above which regions lie.
        digest: of its text.
    """

    images: dict[str, ImageTag] = field(default_factory=dict)
    controls: tuple[Control, ...] = ()
    threshold: float = Options.threshold
    digest: str = ""

    @cached_property
    def _about(self) -> dict[str, tuple[Control, ...]]:
        found: dict[str, list[Control]] = defaultdict(list)
        for control in self.controls:
            found[control.image].append(control)
        return {image: tuple(controls) for image, controls in found.items()}

    def about(self, image: str) -> tuple[Control, ...]:
        """Return the controls about a picture."""
        return self._about.get(image, ())


@dataclass
class _Tag:
    """An element: its name in lower case, and what is inside."""

    name: str
    attributes: dict[str, str]
    inside: list[_Tag] = field(default_factory=list)

    def get(self, name: str) -> str:
        """Return an attribute, whatever its case; empty where it is not given."""
        return next((value for key, value in self.attributes.items() if key.lower() == name), "")

    def walk(self, *, into_controls: bool = True) -> Iterator[_Tag]:
        """Yield it and all that is inside, in document order; perhaps not what is inside of controls further down."""
        left = [self]
        while left:
            tag = left.pop()
            yield tag
            if into_controls or tag is self or tag.name not in _CONTROLS:
                left.extend(reversed(tag.inside))


def parse_config(text: str) -> Labelling:
    """Read a labelling configuration. What is not known in it is left alone, and an empty one has nothing.

    Raises:
        InvalidOption: it is no XML, has a document type, or is longer or deeper than any.
    """
    if not text.strip():
        return Labelling()
    tags = list(_parsed(text).walk())
    images = {tag.get("name"): image for tag in tags if tag.name == "image" and (image := _image(tag)) is not None}
    controls = [control for tag in tags if tag.name in _CONTROLS and (control := _control(tag, images)) is not None]
    drawn = [tag for tag in tags if tag.name == "image" or (tag.name in _CONTROLS and tag.name != "choices")]
    thresholds = [share for tag in drawn if (share := _share(tag)) is not None]
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Labelling(images, tuple(controls), thresholds[0] if thresholds else Options.threshold, digest)


def _image(tag: _Tag) -> ImageTag | None:
    name, one, several = tag.get("name"), tag.get("value"), tag.get("valuelist")
    # What a <Repeater> makes of its inside is known by its name only when a task is shown.
    return ImageTag(name, several or one, bool(several)) if name and (one or several) and "{{" not in name else None


def _control(tag: _Tag, images: dict[str, ImageTag]) -> Control | None:
    name = tag.get("name")
    about = next((image for part in tag.get("toname").split(",") if (image := part.strip()) in images), None)
    if not name or about is None or _is_on(tag, "perregion") or "{{" in name:
        return None
    labels = [
        _label(each) for each in tag.walk(into_controls=False) if each.name == _CONTROLS[tag.name] and each.get("value")
    ]
    return Control(
        tag.name,
        name,
        about,
        tuple(labels),
        several=tag.get("choice").lower() == "multiple",
        per_item=_is_on(tag, "peritem"),
        threshold=_share(tag) if tag.name == "choices" else None,
        interactive_only=_is_on(tag, "smartonly"),
    )


def _label(tag: _Tag) -> ProjectLabel:
    value, alias, html = (tag.get(name).strip() for name in ("value", "alias", "html"))
    # Where there is an alias, it is what the editor writes.
    return ProjectLabel(alias or value, tuple(dict.fromkeys(name for name in (value, alias, html) if name)))


def _is_on(tag: _Tag, name: str) -> bool:
    return tag.get(name).lower() == "true"


def _share(tag: _Tag) -> float | None:
    try:
        share = float(tag.get("threshold"))
    except ValueError:
        return None
    return share if 0 <= share <= 1 else None


def _parsed(text: str) -> _Tag:
    if len(text) > _MAX_CHARACTERS:
        raise InvalidOption(f"The labelling configuration has more than {_MAX_CHARACTERS} characters.")
    root = _Tag("", {})
    open_tags = [root]

    def begin(name: str, attributes: dict[str, str]) -> None:
        if len(open_tags) > _MAX_DEPTH:
            raise InvalidOption(f"The labelling configuration is nested more than {_MAX_DEPTH} deep.")
        tag = _Tag(name.lower(), attributes)
        open_tags[-1].inside.append(tag)
        open_tags.append(tag)

    def refuse(*_declaration: object) -> None:
        raise InvalidOption("The labelling configuration has a document type, which is not read. Leave it out.")

    parser = expat.ParserCreate()
    parser.StartElementHandler = begin
    parser.EndElementHandler = lambda _name: open_tags.pop()
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise InvalidOption(f"The labelling configuration is no XML: {shorten(str(error))}.") from None
    except UnicodeError:
        raise InvalidOption("The labelling configuration holds characters that are none.") from None
    return root
