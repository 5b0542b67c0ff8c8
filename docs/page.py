"""Take docs/page.png: the page of `spade-index serve`, looking at defects that the demo made.

spade-index demo --out demo
python docs/page.py demo docs/page.png      # needs the extras serve and dev, and Debian's chromium
"""

import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

CHROMIUM = "/usr/bin/chromium"
SHOWN = ("stain/002", "scratch/005", "foreign/003", "good/000", "good/003")


def main(demo: Path, picture: Path) -> None:
    """Serve the demo's gallery of gravel, give the page some images, and take its picture."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(demo / "galleries" / "gravel", Path(folder, "root", "gravel"))
        images = [Path(folder, f"{name.replace('/', '-')}.png") for name in SHOWN]
        for name, image in zip(SHOWN, images, strict=True):
            shutil.copy(demo / "data" / "gravel" / "test" / f"{name}.png", image)
        command = Path(sys.executable).with_name("spade-index")
        subprocess.run([command, "calibrate", Path(folder, "root", "gravel")], check=True)
        serve = [command, "serve", Path(folder, "root"), "--port", "0"]
        service = subprocess.Popen(serve, stderr=subprocess.PIPE, text=True)
        try:
            assert service.stderr is not None
            lines = map(re.compile(r"listening on (http://\S+:\d+)").search, service.stderr)
            address = next(line[1] for line in lines if line)
            take(f"{address}/#gallery=gravel", images, picture)
        finally:
            service.terminate()
            service.wait()


def take(address: str, images: list[Path], picture: Path) -> None:
    """Give images to the page at an address, and take its picture."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1400, "height": 800}, reduced_motion="reduce")
        page.goto(address)
        expect(page.locator("#facts")).not_to_be_empty()
        page.locator("#files").set_input_files(images)
        expect(page.locator(".row .verdict:is([data-state=anomalous], [data-state=normal])")).to_have_count(
            len(images), timeout=120_000
        )
        expect(page.locator("#match")).to_contain_text("distance")
        page.wait_for_load_state("networkidle")
        taken = page.screenshot(full_page=True)
        browser.close()
    colours = Image.open(io.BytesIO(taken)).convert("RGB")
    palette = colours.quantize(256, method=Image.Quantize.MAXCOVERAGE)  # the few bright ones matter most
    colours.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(picture, optimize=True)
    print(f"{picture}: {picture.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
