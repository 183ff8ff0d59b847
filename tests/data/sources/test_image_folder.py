import io
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torchvision
from own_data import in_folder, in_shards, photos
from PIL import Image
from shard_files import colour, encoded
from tiny_runs import call, contents, refused

from grafs_timm.data import open_dataset
from grafs_timm.data.pack import Packing, pack
from grafs_timm.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore::grafs_timm.GrafsWarning")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFS_TIMM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "packed"


# ------------------------------------------------------------------------------------------------------ kinds of files


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


RGB = Image.fromarray(colour(1, 12)).resize((12, 7))
FRAMES = [Image.fromarray(colour(number, 9)) for number in (5, 6, 7)]
MORE = {"save_all": True, "append_images": FRAMES[1:]}
CLEAR = Image.merge("RGBA", (*RGB.split(), Image.linear_gradient("L").resize(RGB.size)))
FILES = {
    "photo.jpg": saved(RGB, "JPEG"),
    "PHOTO.JPEG": saved(RGB.rotate(90), "JPEG"),
    "Mixed.JpG": saved(RGB.rotate(180), "JPEG"),
    "palette.png": saved(RGB.quantize(5), "PNG"),
    "clear palette.png": saved(RGB.quantize(5), "PNG", transparency=2),
    "clear.png": saved(CLEAR, "PNG"),
    "grey.PNG": saved(RGB.convert("L"), "PNG"),
    "grey clear.png": saved(CLEAR.convert("LA"), "PNG"),
    "two colours.png": saved(RGB.convert("1"), "PNG"),
    "cmyk.jpg": saved(RGB.convert("CMYK"), "JPEG"),
    "grey.jpg": saved(RGB.convert("L"), "JPEG"),
    "turned.jpg": saved(RGB, "JPEG", exif=_exif(6)),
    "turned.png": saved(RGB, "PNG", exif=_exif(8)),
    "turned.webp": saved(RGB, "WEBP", lossless=True, exif=_exif(3)),
    "moving.png": saved(FRAMES[0], "PNG", **MORE),
    "moving.webp": saved(FRAMES[0], "WEBP", lossless=True, **MORE),
    "pages.tif": saved(FRAMES[0], "TIFF", **MORE),
    "cmyk.TIFF": saved(RGB.convert("CMYK"), "TIFF"),
    "plain.bmp": saved(RGB, "BMP"),
    "plain.ppm": saved(RGB, "PPM"),
    "plain.PGM": saved(RGB.convert("L"), "PPM"),
    "a png.jpg": saved(RGB, "PNG"),
    "gif.bmp": saved(RGB.quantize(9), "GIF"),
    "été 東京 🐝.png": saved(RGB.rotate(5), "PNG"),
    "with 'quotes' \"and\" {braces}.png": saved(RGB.rotate(6), "PNG"),
    "a:b\\c*.png": saved(RGB.rotate(7), "PNG"),
}


def test_every_kind_of_file_is_what_image_folder_makes_of_it(tmp_path):
    if sys.getfilesystemencoding() != "utf-8":
        pytest.skip("no file can be called that in this locale")
    folder = photos(tmp_path / "photos", classes=("ant", "Ünïcode 猫"))
    for name, content in FILES.items():
        (folder / "ant" / name).write_bytes(content)
    info = open_dataset(folder)
    assert info.classes == tuple(torchvision.datasets.ImageFolder(folder).classes) == ("ant", "Ünïcode 猫")
    found, wanted = in_shards(info, "train", "test"), in_folder(folder)
    assert found.total() == 24 + len(FILES)
    assert found == wanted
    assert "no problems" in call("data", "check", folder, "--quiet").stdout


def test_gifs_are_taken_too_by_their_first_frame(tmp_path):
    folder = photos(tmp_path / "photos")
    (folder / "bee" / "moving.GIF").write_bytes(saved(FRAMES[0], "GIF", **MORE))  # left out by torchvision's ImageFolder
    more = in_shards(open_dataset(folder), "train", "test") - in_folder(folder)
    assert more == Counter([(1, (9, 9), Image.open(folder / "bee" / "moving.GIF").convert("RGB").tobytes())])


def test_an_image_too_wide_for_webp_is_kept_as_png(tmp_path):
    folder = photos(tmp_path / "photos")
    Image.fromarray(np.tile(colour(3), (1, 2100, 1))).save(folder / "ant" / "wide.bmp")
    assert in_shards(open_dataset(folder), "train", "test") == in_folder(folder)


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("deep.png", Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)),
        ("deep.tif", Image.fromarray(np.arange(64, dtype=np.int32).reshape(8, 8) * 1000)),
        ("float.tif", Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8))),
    ],
)
def test_more_than_8_bits_are_an_error_and_not_white(tmp_path, cache, name, image):
    folder = photos(tmp_path / "photos")
    image.save(folder / "bee" / name)
    message = refused("data", "check", folder)
    assert f"photos: bee/{name}: image of mode {Image.open(folder / 'bee' / name).mode}; only 8 bits per channel" in message
    assert f"leave out such images: grafs-timm data pack {folder} OUT --skip-bad, then --data OUT" in message
    assert not list(cache.glob("*"))


# ----------------------------------------------------------------------------------------------------------- bad input


def test_a_broken_image_is_named_and_can_be_left_out(tmp_path, cache):
    folder = photos(tmp_path / "photos")
    broken = folder / "bee" / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:-40])
    message = refused("data", "check", folder)
    assert "photos: bee/3.jpg: this image is truncated, corrupt or not an image" in message
    assert not list(cache.glob("*"))
    assert call("data", "pack", folder, tmp_path / "out", "--skip-bad", "--hold-out", "0.1").exit_code == 0
    assert open_dataset(tmp_path / "out").split("train").num_samples == 21


@pytest.mark.parametrize("content", [b"", b"no image", encoded(colour(0))[:40]])
def test_a_class_of_broken_files_only_is_an_error(tmp_path, cache, content):
    folder = photos(tmp_path / "photos")
    for file in (folder / "bee").iterdir():
        file.write_bytes(content)
    with pytest.raises(DataError, match=r"photos: bee/\d+\.\w+: this image is truncated, corrupt or not an image"):
        open_dataset(folder)
    assert not list(cache.glob("*"))
    with pytest.raises(DataError, match="photos: no image of class 'bee' in train can be read"):
        pack(str(folder), tmp_path / "out", Packing(hold_out=0.1, skip_bad=True))
    assert not (tmp_path / "out").exists()


def test_an_empty_class_and_no_classes(tmp_path):
    folder = photos(tmp_path / "photos" / "train").parent
    (folder / "train" / "cow").mkdir()
    with pytest.raises(DataError, match=r"train/cow: no images \(\.jpg, .*expected train/CLASS/IMAGE\.jpg"):
        open_dataset(folder)
    (folder / "train" / "cow" / "notes.txt").write_text("none yet", encoding="utf-8")
    with pytest.raises(DataError, match=r"train/cow: no images"):
        open_dataset(folder)
    with pytest.raises(DataError, match=r"photos/train/ant: no folders of classes, but images; expected"):
        open_dataset(folder / "train" / "ant")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no images by class \(CLASS/IMAGE\.jpg.*no _info\.json; the smallest"):
        open_dataset(tmp_path / "empty")
    (tmp_path / "empty" / "x-000000.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"files \(shards are named, such as .*empty/x-000000\.tar\), and no _info"):
        open_dataset(tmp_path / "empty")


def test_one_image_of_a_class_is_too_few_to_hold_some_out(tmp_path):
    folder = photos(tmp_path / "photos")
    (folder / "cow").mkdir()
    (folder / "cow" / "0.png").write_bytes(encoded(colour(0)))
    with pytest.raises(DataError, match="photos: class 'cow' has one image, too few to hold some out"):
        open_dataset(folder)


def _linked(kind: str, folder: Path, out: Path) -> Path:
    """Make a link that leads out of ``folder``; returns it."""
    file = photos(out / "ant", classes=("x",), count=1) / "x" / "0.png"
    if kind == "file":
        (folder / "ant" / "link.png").symlink_to(file)
        return folder / "ant" / "link.png"
    if kind == "relative file":
        (folder / "ant" / "link.png").symlink_to(os.path.relpath(file, folder / "ant"))
        return folder / "ant" / "link.png"
    if kind == "to nothing":
        (folder / "ant" / "link.png").symlink_to(out / "gone.png")
        return folder / "ant" / "link.png"
    if kind == "folder":
        (folder / "ant" / "more").symlink_to(file.parent)
        return folder / "ant" / "more"
    (folder / "cow").symlink_to(file.parent)
    return folder / "cow"


@pytest.mark.parametrize("kind", ["file", "relative file", "to nothing", "folder", "class"])
def test_links_out_of_the_folder_are_refused_by_data(tmp_path, cache, kind):
    folder = photos(tmp_path / "photos")
    link = _linked(kind, folder, tmp_path / "elsewhere")
    message = refused("data", "check", folder)
    assert f"error: {link}: leads out of the folder, to {link.resolve()}; --data follows links inside it only" in message
    assert f"grafs-timm data pack {folder} OUT, then --data OUT" in message
    assert not cache.exists()


def test_links_inside_the_folder_and_to_it_are_followed(tmp_path):
    folder = photos(tmp_path / "photos")
    (folder / "ant" / "again.png").symlink_to("../bee/0.png")
    (tmp_path / "link").symlink_to(folder)
    assert in_shards(open_dataset(tmp_path / "link"), "train", "test") == in_folder(folder)
    assert open_dataset(tmp_path / "link").folder == open_dataset(folder).folder


@pytest.mark.parametrize("name", ["a\nb.png", "a\r.png", "a\x1b[31m.png", "a\u2028b.png"])
@pytest.mark.parametrize("where", ["file", "folder", "class"])
def test_names_with_line_breaks_are_refused(tmp_path, where, name):
    folder = photos(tmp_path / "photos")
    inside = {"file": folder / "ant" / name, "folder": folder / "ant" / name / "0.png", "class": folder / name / "0.png"}[where]
    try:
        inside.parent.mkdir(exist_ok=True)
        inside.write_bytes(encoded(colour(0)))
    except UnicodeEncodeError:
        pytest.skip("no file can be called that in this locale")
    message = refused("data", "check", folder)
    assert "has a line break or another control character; rename it" in message
    assert message.count("\n") == 1
    assert "\x1b[31m" not in message


def test_names_that_are_not_utf8(tmp_path):
    folder = photos(tmp_path / "photos")
    os.rename(folder / "ant" / "0.png", os.fsencode(folder / "ant") + b"/\xff.png")
    assert in_shards(open_dataset(folder), "train", "test") == in_folder(folder)
    os.rename(folder / "ant", os.fsencode(folder) + b"/ant\xff")
    with pytest.raises(DataError, match=r"photos: the name of class 'ant\\udcff' is not valid text \(UTF-8\); rename it"):
        open_dataset(folder)


def test_the_cache_inside_the_source_is_refused(tmp_path, monkeypatch):
    folder = photos(tmp_path / "photos")
    before = contents(folder)
    monkeypatch.setenv("GRAFS_TIMM_CACHE", str(folder / ".cache"))
    with pytest.raises(DataError, match="lies inside the source"):
        open_dataset(folder)
    assert contents(folder) == before
