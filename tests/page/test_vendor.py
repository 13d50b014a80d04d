"""The npm packages that the page runs are those that were pinned."""

import gzip
import hashlib
import json
import re

from modeling_clip_vit.page.files import VENDOR_FOLDER, WEB_FOLDER

PINS = json.loads((VENDOR_FOLDER / "vendor.json").read_text(encoding="utf-8"))["packages"]


def test_every_file_has_the_checksum_of_its_pin():
    for package in PINS.values():
        for file in package["files"].values():
            content = (VENDOR_FOLDER / package["folder"] / file["name"]).read_bytes()
            content = gzip.decompress(content) if file["name"].endswith(".gz") else content
            assert hashlib.sha256(content).hexdigest() == file["sha256"], file["name"]


def test_every_package_comes_with_its_licence():
    for package in PINS.values():
        assert "Copyright" in (VENDOR_FOLDER / package["folder"] / "LICENSE").read_text()


def test_the_pages_own_files_name_no_other_host():
    for path in WEB_FOLDER.iterdir():
        addresses = set(re.findall(r"https?://[\w./-]+", path.read_text(encoding="utf-8")))
        # A namespace is a name and is not loaded.
        assert addresses <= {"http://www.w3.org/2000/svg"}, path.name


def test_every_module_that_the_page_imports_is_there():
    for path in WEB_FOLDER.glob("*.js"):
        for name in re.findall(r'from "\./([^"]+)"', path.read_text(encoding="utf-8")):
            folder = VENDOR_FOLDER if name.startswith("vendor/") else WEB_FOLDER
            assert (folder / name.removeprefix("vendor/")).is_file(), name


def test_both_languages_say_the_same_things():
    source = (WEB_FOLDER / "strings.js").read_text(encoding="utf-8")
    english, chinese = source.split("  zh: {")[0], source.split("  zh: {")[1]
    keys = [re.findall(r"^    (\w+):", part, re.MULTILINE) for part in (english, chinese)]
    assert keys[0] == keys[1]
