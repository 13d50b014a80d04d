"""Fetch the npm packages of the page, and keep the files that vendor.json lists.

Needs npm. Run it after a version or a checksum in vendor.json has changed:

    python modeling_clip_vit/page/vendor/fetch.py

Every file is compared with its checksum before anything is replaced. `--update` writes the
checksums of what was downloaded instead, for a new version that you have looked at.
"""

import argparse
import gzip
import hashlib
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
VENDOR_FILE = FOLDER / "vendor.json"


def download(name: str, version: str, place: Path) -> tarfile.TarFile:
    """The archive of an npm package, by npm's own client, which verifies it."""
    command = ["npm", "pack", f"{name}@{version}", "--silent", "--pack-destination", str(place)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return tarfile.open(place / output.strip().splitlines()[-1])


def read_member(archive: tarfile.TarFile, path: str) -> bytes:
    """The content of a file of an npm package."""
    member = archive.extractfile(f"package/{path}")
    if member is None:
        raise SystemExit(f"the package has no file {path!r}")
    return member.read()


def main():
    """Download, verify, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="write new checksums")
    update = parser.parse_args().update
    pins = json.loads(VENDOR_FILE.read_text(encoding="utf-8"))
    contents: dict[Path, bytes] = {}
    with tempfile.TemporaryDirectory() as place:
        for name, package in pins["packages"].items():
            archive = download(name, package["version"], Path(place))
            for path, file in package["files"].items():
                content = read_member(archive, path)
                checksum = hashlib.sha256(content).hexdigest()
                if update:
                    file["sha256"] = checksum
                elif checksum != file["sha256"]:
                    raise SystemExit(f"{path!r} of {name} is not the file that was pinned")
                contents[FOLDER / package["folder"] / file["name"]] = content
    for target, content in contents.items():
        target.parent.mkdir(exist_ok=True)
        is_packed = target.suffix == ".gz"
        target.write_bytes(gzip.compress(content, 9, mtime=0) if is_packed else content)
        print(f"{target.relative_to(FOLDER)}: {target.stat().st_size:,} bytes")
    if update:
        VENDOR_FILE.write_text(json.dumps(pins, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
