"""Take the pictures of the page of `spade-index serve` for docs/, looking at defects that the demo made.

spade-index demo --out demo
python docs/page.py demo docs               # needs the extras serve and dev, and Debian's chromium

page.png                the verdict on a defect, and the known defects that it is like
page-preview.png        which verdicts feedback would change
"""

import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from spade_index.client import Client

CHROMIUM = "/usr/bin/chromium"
KINDS = ("foreign", "scratch", "stain")  # one image of each is a known defect
SHOWN = ("stain/002", "scratch/005", "foreign/003", "good/000", "good/003")
JUDGED = ".row .verdict:is([data-state=anomalous], [data-state=normal])"
WAIT = 600_000  # milliseconds for an answer


def main(demo: Path, docs: Path) -> None:
    """Serve the demo's gallery of gravel, give the page some images, and take its pictures."""
    test = demo / "data" / "gravel" / "test"
    with tempfile.TemporaryDirectory() as folder:
        gallery = Path(folder, "root", "gravel")
        shutil.copytree(demo / "galleries" / "gravel", gallery)
        images = [Path(folder, f"{name.replace('/', '-')}.png") for name in SHOWN]
        for name, image in zip(SHOWN, images, strict=True):
            shutil.copy(test / f"{name}.png", image)
        command = [sys.executable, "-m", "spade_index"]
        subprocess.run([*command, "calibrate", gallery], check=True)
        serve = [*command, "serve", gallery.parent, "--port", "0"]
        service = subprocess.Popen(serve, stderr=subprocess.PIPE, text=True)
        try:
            assert service.stderr is not None
            lines = map(re.compile(r"listening on (http://\S+:\d+)").search, service.stderr)
            address = next(line[1] for line in lines if line)
            with Client(address) as client:
                for kind in KINDS:
                    client.wait(client.say_defect("gravel", [test / kind / "000.png"], kind))
            take(f"{address}/#gallery=gravel", images, docs)
        finally:
            service.terminate()
            service.wait()


def take(address: str, images: list[Path], docs: Path) -> None:
    """Give images to the page at an address, and take its pictures."""
    expect.set_options(timeout=WAIT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1400, "height": 800}, reduced_motion="reduce", locale="en-GB")
        page.goto(address)
        expect(page.locator("#facts")).not_to_be_empty()
        page.locator("#files").set_input_files(images)
        expect(page.locator(JUDGED)).to_have_count(len(images))
        expect(page.locator("#match")).to_contain_text("distance")
        save(page, docs / "page.png")
        page.locator(".row").last.click()  # a false alarm
        page.get_by_role("button", name="This one is fine").click()
        expect(page.locator("#previewWords")).not_to_be_empty()
        save(page, docs / "page-preview.png")
        browser.close()


def save(page: Page, file: Path) -> None:
    """Take a picture of the whole page, in few colours."""
    page.wait_for_load_state("networkidle")
    colours = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    palette = colours.quantize(256, method=Image.Quantize.MAXCOVERAGE)  # the few bright ones matter most
    colours.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(file, optimize=True)
    print(f"{file}: {file.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
