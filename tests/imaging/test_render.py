from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import UnknownColormap
from service.imaging.canvas import Canvas
from service.imaging.colormaps import COLORMAPS, colormap
from service.imaging.decode import DecodedImage
from service.imaging.geometry import Point
from service.imaging.preprocess import PreprocessSpec, geometry_for
from service.imaging.render import Rendered, RenderSpec, pixels_for
from service.imaging.render import render as render_on
from service.placement import AxisPlacement, Placement
from service.vocabulary import Fitting, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from service.imaging.encode import EncodedImage
    from service.imaging.geometry import Geometry

CROP = PreprocessSpec("crop", 224, 224, 256)
PAD = PreprocessSpec("pad", 224, 224)
SQUASH = PreprocessSpec("squash", 224, 224)


def pixels(encoded: EncodedImage | None, mode: str = "RGB") -> NDArray[np.uint8]:
    assert encoded is not None
    image = Image.open(io.BytesIO(encoded.data))
    assert image.size == (encoded.width, encoded.height)
    return np.asarray(image.convert(mode))


def plain(width: int, height: int, colour: tuple[int, int, int] = (10, 100, 200)) -> DecodedImage:
    return DecodedImage(Image.new("RGB", (width, height), colour), width, height, "PNG")


def noise(width: int, height: int) -> DecodedImage:
    values = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return DecodedImage(Image.fromarray(values), width, height, "PNG")


def canvas(image: DecodedImage, geometry: Geometry, spec: RenderSpec) -> Canvas:
    return Canvas(image, geometry, spec.size, spec.max_side)


def render(
    saliency: NDArray[np.float32],
    image: DecodedImage,
    geometry: Geometry,
    spec: RenderSpec,
    placement: Placement | None = None,
) -> Rendered:
    return render_on(saliency, geometry, spec, canvas(image, geometry, spec), placement)


def dot(row: int, column: int, cells: int = 7) -> NDArray[np.float32]:
    saliency = np.zeros((cells, cells), np.float32)
    saliency[row, column] = 3.5
    return saliency


def test_what_is_not_asked_for_is_none() -> None:
    drawn = render(dot(3, 3), plain(64, 48), geometry_for(CROP, 64, 48), RenderSpec(()))
    assert (drawn.heatmap, drawn.overlay, drawn.mask, drawn.regions) == (None, None, None, None)
    assert (drawn.empty, drawn.maximum) == (False, 3.5)


def test_everything_at_once_is_what_each_is_alone() -> None:
    image, geometry = noise(100, 80), geometry_for(CROP, 100, 80)
    saliency = np.random.default_rng(0).random((7, 7), np.float32)
    together = render(saliency, image, geometry, RenderSpec(("heatmap", "overlay", "mask", "map", "regions")))
    for name in ("heatmap", "overlay", "mask", "regions"):
        alone = render(saliency, image, geometry, RenderSpec(frozenset({name})))
        assert getattr(alone, name) == getattr(together, name)


@pytest.mark.parametrize(("size", "kept"), [("picture", 60 * 38), ("model", 224 * 224), ("layer", 401 * 251)])
def test_a_canvas_keeps_what_drawing_takes_from_the_picture(size: Size, kept: int) -> None:
    image, spec = noise(401, 251), RenderSpec(("overlay",), size=size, max_side=60)
    geometry = geometry_for(CROP, image.width, image.height)
    assert canvas(image, geometry, spec).pixels == kept
    assert pixels_for(spec, geometry) == (60 * 38 if size == "picture" else 224 * 224)


def test_no_more_pixels_are_drawn_than_are_counted() -> None:
    for width, height in ((401, 251), (30, 4000), (8, 8)):
        geometry = geometry_for(PAD, width, height)
        for size, outputs in (("picture", ("mask",)), ("model", ("heatmap",)), ("layer", ("overlay",))):
            spec = RenderSpec(outputs, size=size, max_side=100)  # type: ignore[arg-type]
            drawn = render(dot(3, 3), plain(width, height), geometry, spec)
            made = drawn.mask or drawn.heatmap or drawn.overlay
            assert made is not None
            assert made.width * made.height <= pixels_for(spec, geometry)
    assert pixels_for(RenderSpec(("regions", "map")), geometry) == pixels_for(None, geometry) == 0


def test_the_peak_is_the_hottest_cells_centre_on_the_picture() -> None:
    # Cell (1, 5) of 7 covers model x 160–192, y 32–64, centre (176, 48): x (176+58)·640/341, y (48+16)·480/256.
    drawn = render(dot(1, 5), plain(640, 480), geometry_for(CROP, 640, 480), RenderSpec(()))
    assert drawn.peak is not None
    assert (drawn.peak.x, drawn.peak.y) == pytest.approx((234 * 640 / 341, 120))


def test_a_peak_in_the_padding_is_moved_into_the_picture() -> None:
    # Rows 0 to 27 of the model's input are padding, cell row 0 has its centre at 16.
    drawn = render(dot(0, 3), plain(640, 480), geometry_for(PAD, 640, 480), RenderSpec(()))
    assert drawn.peak == Point(320, 0)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_an_empty_map_is_cold_where_the_model_looked(value: float) -> None:
    outputs = RenderSpec(("heatmap", "overlay", "mask", "regions"), alpha=1, image_format="png")
    image = plain(640, 480)
    drawn = render(np.full((7, 7), value, np.float32), image, geometry_for(CROP, 640, 480), outputs)
    assert drawn.empty
    assert (drawn.maximum, drawn.peak, drawn.regions) == (0, None, [])
    heat = pixels(drawn.heatmap, "RGBA")
    assert (heat[30:450, 109:529] == (*colormap("turbo").table[0], 255)).all()
    assert (heat[:, :109, 3] == 0).all()
    assert (pixels(drawn.mask, "L") == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_map_that_is_not_finite_is_refused(bad: float) -> None:
    saliency = dot(1, 1)
    saliency[2, 2] = bad
    with pytest.raises(ValueError, match="finite"):
        render(saliency, plain(64, 48), geometry_for(CROP, 64, 48), RenderSpec())


@pytest.mark.parametrize("shape", [(7,), (1, 7, 7), (0, 7)])
def test_a_map_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="two dimensions"):
        render(np.ones(shape, np.float32), plain(64, 48), geometry_for(CROP, 64, 48), RenderSpec())


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1.0, 1e38])
def test_the_scale_of_the_map_does_not_matter(scale: float) -> None:
    saliency = (dot(2, 4) / 3.5 * scale).astype(np.float32)
    spec = RenderSpec(("mask",), size="layer")
    drawn = render(saliency, plain(64, 48), geometry_for(CROP, 64, 48), spec)
    assert not drawn.empty
    assert (pixels(drawn.mask, "L") == np.where(saliency > 0, 255, 0)).all()


@pytest.mark.parametrize("name", COLORMAPS)
def test_the_hottest_pixel_is_the_last_colour_and_the_coldest_the_first(name: str) -> None:
    spec = RenderSpec(("heatmap",), size="layer", colormap=name)
    heat = pixels(render(dot(2, 4), plain(224, 224), geometry_for(SQUASH, 224, 224), spec).heatmap)
    assert tuple(heat[2, 4]) == tuple(colormap(name).table[255])
    assert tuple(heat[6, 0]) == tuple(colormap(name).table[0])


@pytest.mark.parametrize("name", COLORMAPS)
def test_a_flat_positive_map_is_hottest_all_over(name: str) -> None:
    spec = RenderSpec(("heatmap", "mask"), colormap=name)
    drawn = render(np.full((7, 7), 0.2, np.float32), plain(90, 70), geometry_for(SQUASH, 90, 70), spec)
    assert (pixels(drawn.heatmap) == colormap(name).table[255]).all()
    assert (pixels(drawn.mask, "L") == 255).all()


@pytest.mark.parametrize(("size", "shape"), [("picture", (480, 640)), ("model", (224, 224)), ("layer", (7, 9))])
@pytest.mark.parametrize("image_format", ["auto", "png", "jpeg", "webp"])
def test_sizes_and_formats(size: Any, shape: tuple[int, int], image_format: Any) -> None:
    spec = RenderSpec(("heatmap", "overlay", "mask"), size=size, image_format=image_format)
    drawn = render(np.ones((7, 9), np.float32), plain(640, 480), geometry_for(CROP, 640, 480), spec)
    kinds = ["png", "jpeg", "png"] if image_format == "auto" else [image_format] * 3
    for encoded, kind in zip((drawn.heatmap, drawn.overlay, drawn.mask), kinds, strict=True):
        assert encoded is not None
        assert encoded.media_type == f"image/{kind}"
        assert pixels(encoded).shape[:2] == (encoded.height, encoded.width) == shape


def test_max_side_bounds_the_pictures_and_not_the_coordinates() -> None:
    image, geometry = plain(640, 480), geometry_for(CROP, 640, 480)
    large = render(dot(1, 5), image, geometry, RenderSpec(("heatmap", "regions")))
    small = render(dot(1, 5), image, geometry, RenderSpec(("heatmap", "regions"), max_side=64))
    assert small.heatmap is not None
    assert (small.heatmap.width, small.heatmap.height) == (64, 48)
    assert (small.peak, small.regions) == (large.peak, large.regions)


@pytest.mark.parametrize("image_format", ["png", "webp", "jpeg"])
def test_outside_the_view_nothing_is_explained(image_format: Any) -> None:
    image, geometry = noise(640, 480), geometry_for(CROP, 640, 480)
    spec = RenderSpec(("heatmap", "overlay", "mask"), image_format=image_format, alpha=0.7)
    drawn = render(np.ones((7, 7), np.float32), image, geometry, spec)
    inside = np.zeros((480, 640), bool)
    inside[30:450, 109:529] = True
    if image_format == "jpeg":
        far = np.zeros_like(inside)
        far[:16], far[:, :96] = True, True  # away from the edge, which a JPEG smears over its blocks
        assert pixels(drawn.heatmap)[far].max() <= 3
        assert pixels(drawn.mask, "L")[far].max() <= 3
    else:
        assert (pixels(drawn.heatmap, "RGBA")[..., 3] == np.where(inside, 255, 0)).all()
        assert (pixels(drawn.mask, "L") == np.where(inside, 255, 0)).all()
    if image_format == "png":
        assert (pixels(drawn.overlay)[~inside] == np.asarray(image.rgb)[~inside]).all()
        assert (pixels(drawn.overlay)[inside] != np.asarray(image.rgb)[inside]).any(axis=-1).mean() > 0.99


def test_the_overlay_is_a_plain_blend() -> None:
    image, geometry = noise(90, 70), geometry_for(SQUASH, 90, 70)
    saliency = np.random.default_rng(3).random((7, 7), np.float32)

    def overlay(alpha: float) -> NDArray[np.uint8]:
        spec = RenderSpec(("overlay",), alpha=alpha, image_format="png")
        return pixels(render(saliency, image, geometry, spec).overlay)

    colours = pixels(render(saliency, image, geometry, RenderSpec(("heatmap",))).heatmap)
    picture = np.asarray(image.rgb)
    assert (overlay(0) == picture).all()
    assert (overlay(1) == colours).all()
    exact = 0.7 * picture + 0.3 * colours
    assert np.abs(overlay(0.3) - exact).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("size", ["model", "layer"])
def test_the_overlay_of_a_padded_input_is_black_around_the_picture(size: Any) -> None:
    spec = RenderSpec(("overlay",), size=size, alpha=0, image_format="png")
    shown = pixels(render(dot(3, 3), plain(640, 480), geometry_for(PAD, 640, 480), spec).overlay)
    rows = (28, 196) if size == "model" else (1, 6)
    assert (shown[: rows[0]] == 0).all()
    assert (shown[rows[1] :] == 0).all()
    assert (shown[rows[0] : rows[1]] == (10, 100, 200)).all()


def test_the_overlay_of_the_model_shows_what_the_model_saw(photo: Any) -> None:
    from service.imaging.preprocess import preprocess

    image = DecodedImage(photo(640, 480), 640, 480, "PNG")
    prepared = preprocess(image, CROP)
    spec = RenderSpec(("overlay",), size="model", alpha=0, image_format="png")
    shown = pixels(render(dot(3, 3), image, prepared.geometry, spec).overlay)
    assert np.abs(shown.astype(int) - prepared.pixels).max() <= 2


@pytest.mark.parametrize("size", ["picture", "model", "layer"])
def test_a_canvas_can_be_shared_between_maps(size: Size) -> None:
    image, geometry = noise(90, 70), geometry_for(CROP, 90, 70)
    spec = RenderSpec(("overlay",), size=size, image_format="png")
    shared = canvas(image, geometry, spec)
    for saliency in (dot(1, 3), dot(2, 3), dot(2, 3, cells=5)):
        assert render_on(saliency, geometry, spec, shared) == render(saliency, image, geometry, spec)


def test_an_overlay_needs_a_canvas() -> None:
    with pytest.raises(ValueError, match="canvas"):
        render_on(dot(1, 3), geometry_for(CROP, 90, 70), RenderSpec(("overlay",)))


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (500, 500), (1920, 300)])
@pytest.mark.parametrize("spec", [CROP, SQUASH, PAD], ids=lambda spec: spec.mode)
@pytest.mark.parametrize("cell", [(3, 3), (2, 4), (4, 2)])
def test_a_bright_cell_lies_on_the_pixels_it_came_from(
    size: tuple[int, int], spec: PreprocessSpec, cell: tuple[int, int]
) -> None:
    geometry = geometry_for(spec, *size)
    drawn = render(dot(*cell), plain(*size), geometry, RenderSpec(("mask",), max_side=4000))
    mask = pixels(drawn.mask, "L").astype(float)
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]] + 0.5
    centre = (columns * mask).sum() / mask.sum(), (rows * mask).sum() / mask.sum()
    expected = geometry.to_image((cell[1] + 0.5) * 32, (cell[0] + 0.5) * 32)
    if not 0 < expected[1] < size[1]:  # the cell lies in the padding
        assert drawn.peak == Point(expected[0], min(max(expected[1], 0), size[1]))
        return
    assert drawn.peak == Point(*expected)
    if 32 / geometry.scale_y < min(expected[1], size[1] - expected[1]):  # the whole of it lies on the picture
        assert centre == pytest.approx(expected, abs=1.0)
    hottest = np.argwhere(mask == mask.max()).mean(axis=0) + 0.5
    assert (hottest[1], hottest[0]) == pytest.approx(expected, abs=0.2 / min(geometry.scale_x, geometry.scale_y) + 1)
    assert mask.max() >= 245


@given(
    st.sampled_from(["crop", "squash", "pad"]),
    st.integers(1, 400),
    st.integers(1, 400),
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from(["picture", "model", "layer"]),
    st.integers(1, 300),
)
@settings(deadline=None, max_examples=80)
def test_any_map_on_any_picture_can_be_drawn(
    mode: Fitting, width: int, height: int, h: int, w: int, size: Any, max_side: int
) -> None:
    preprocess = PreprocessSpec(mode, 64, 48, 70 if mode == "crop" else None)
    geometry = geometry_for(preprocess, width, height)
    saliency = np.random.default_rng(h * 50 + w).random((h, w), np.float32)
    spec = RenderSpec(("heatmap", "overlay", "mask", "regions"), size=size, max_side=max_side)
    drawn = render(saliency, plain(width, height), geometry, spec)
    view = geometry.view
    assert drawn.peak is not None
    assert view.left <= drawn.peak.x <= view.right
    assert view.top <= drawn.peak.y <= view.bottom
    assert pixels(drawn.heatmap).shape == pixels(drawn.overlay).shape
    assert drawn.regions is not None


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("outputs", {"outputs": ("picture",)}),
        ("size", {"size": "screen"}),
        ("image_format", {"image_format": "gif"}),
        ("alpha", {"alpha": 1.5}),
        ("alpha", {"alpha": float("nan")}),
        ("threshold", {"threshold": -0.1}),
        ("max_side", {"max_side": 0}),
    ],
)
def test_a_spec_that_cannot_be_drawn_is_refused(field: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=field):
        RenderSpec(**options)


def test_an_unknown_colormap_is_refused_with_suggestions() -> None:
    with pytest.raises(UnknownColormap, match="turbo"):
        RenderSpec(colormap="turbos")


# A ResNet's last layer: cells centred at 0.5, 32.5, …, 192.5 of 224 pixels.
RESNET = Placement(AxisPlacement(0.5, 32), AxisPlacement(0.5, 32))


def test_a_cell_is_drawn_where_it_looks() -> None:
    geometry = geometry_for(SQUASH, 448, 448)
    drawn = render(dot(2, 4), plain(448, 448), geometry, RenderSpec(("mask",)), placement=RESNET)

    # Cell (2, 4) looks at x = 128.5, y = 64.5 of the model's input, which is half as wide as the picture.
    assert drawn.peak == Point(257, 129)
    mask = pixels(drawn.mask, "L").astype(float)
    rows, columns = np.mgrid[:448, :448] + 0.5
    assert (mask * columns).sum() / mask.sum() == pytest.approx(257, abs=0.5)
    assert (mask * rows).sum() / mask.sum() == pytest.approx(129, abs=0.5)


def test_beyond_the_outermost_cell_its_value_holds() -> None:
    saliency = np.zeros((7, 7), np.float32)
    saliency[:, 6] = 1
    geometry = geometry_for(SQUASH, 224, 224)

    mask = pixels(render(saliency, plain(224, 224), geometry, RenderSpec(("mask",)), placement=RESNET).mask, "L")

    assert (mask[:, 193:] == 255).all()  # the last cell's centre is at 192.5
    assert mask[0, 160] == 0


def test_a_mirrored_layer_is_turned_back() -> None:
    mirrored = Placement(AxisPlacement(208, -32), AxisPlacement(16, 32))
    image, geometry = plain(224, 224), geometry_for(SQUASH, 224, 224)
    saliency = np.random.default_rng(2).random((7, 7), np.float32)

    turned = render(saliency, image, geometry, RenderSpec(("mask",)), placement=mirrored)

    assert np.array_equal(
        pixels(turned.mask, "L"), pixels(render(saliency[:, ::-1], image, geometry, RenderSpec(("mask",))).mask, "L")
    )


def test_a_picture_on_the_layers_own_grid_ignores_where_its_cells_look() -> None:
    image, geometry, spec = plain(224, 224), geometry_for(SQUASH, 224, 224), RenderSpec(("mask",), size="layer")
    saliency = np.random.default_rng(2).random((7, 7), np.float32)

    placed = render(saliency, image, geometry, spec, placement=RESNET)

    assert np.array_equal(pixels(placed.mask, "L"), pixels(render(saliency, image, geometry, spec).mask, "L"))
