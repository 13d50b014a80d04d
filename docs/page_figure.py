"""Draw docs/page.webp: the page on a desktop, and on a phone in dark colours.

    clip-vit index outputs/emoji data/emoji emoji.index --split validation
    clip-vit demo emoji.index --target site --title Emoji \
        --examples "a slice of pizza" 一只猫 "a red heart" 下雨 "heart - red" 一束花
    python docs/page_figure.py site

Needs Chromium and selenium, as tests/README.md says.
"""

import io
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.browsers import Browser, serve

GAP = 28
#: Pixels of the picture for one of a window.
DENSITY = 1.5


def photograph(browser: Browser) -> Image.Image:
    """The window as it is, once its pictures are there."""
    browser.wait(
        """
        return [...document.images].every((it) => it.complete
          || it.getBoundingClientRect().top > innerHeight);
        """
    )
    browser.compute("await new Promise((done) => setTimeout(done, 500))")
    return Image.open(io.BytesIO(browser.driver.get_screenshot_as_png())).convert("RGB")


def photograph_desktop(address: str) -> Image.Image:
    """A search in light colours."""
    with Browser(1180, 900, density=DENSITY) as browser:
        browser.open(address)
        browser.search("a red heart")
        browser.run("document.activeElement.blur()")
        return photograph(browser)


def photograph_phone(address: str) -> Image.Image:
    """An explanation in dark colours and Chinese."""
    with Browser(400, 900, "zh-CN", True, density=DENSITY) as browser:
        browser.open(address)
        browser.search("一只猫")
        browser.click("#search-view .card")
        browser.click("#why")
        browser.wait("return document.querySelector('.reason[data-done]')")
        return photograph(browser)


def main():
    """Photograph the page of a site, and save both pictures side by side."""
    with serve(Path(sys.argv[1])) as address:
        windows = [photograph_desktop(address), photograph_phone(address)]
    gap = round(GAP * DENSITY)
    width = sum(window.width for window in windows) + gap
    figure = Image.new("RGB", (width, max(window.height for window in windows)), "white")
    figure.paste(windows[0], (0, 0))
    figure.paste(windows[1], (windows[0].width + gap, 0))
    figure.save(Path(__file__).with_name("page.webp"), quality=86, method=6)


if __name__ == "__main__":
    main()
