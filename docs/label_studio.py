"""Take docs/label-studio.png: what a gallery predicts for a defect that the demo made, as a real Label Studio shows it.

spade-index demo --out demo
make test-label-studio                      # installs Label Studio
PYTHONPATH=tests python docs/label_studio.py demo .venv-label-studio docs/label-studio.png
"""

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from page import CHROMIUM
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from helpers.real_label_studio import PASSWORD, TOKEN, USER, LabelStudio
from helpers.waiting import eventually

PAGE_MS = 120_000  # for a page of Label Studio to be there
SHOWN = "stain/002"
CONFIG = """<View>
  <Choices name="verdict" toName="image" showInline="true"><Choice value="Normal"/><Choice value="Anomalous"/></Choices>
  <Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image"><Label value="Defect" background="#c0392b"/></BrushLabels>
</View>"""


def main(demo: Path, environment: Path, picture: Path) -> None:
    """Connect the demo's gallery of gravel to a Label Studio, have it predict, and take the picture of a task."""
    with tempfile.TemporaryDirectory() as folder:
        gallery = Path(folder, "root", "gravel")
        shutil.copytree(demo / "galleries" / "gravel", gallery)
        command = [sys.executable, "-m", "spade_index"]
        subprocess.run([*command, "calibrate", gallery], check=True)
        with LabelStudio(environment.absolute() / "bin" / "label-studio", Path(folder)) as studio:
            serve = [*command, "serve", gallery.parent, "--port", "0", "--label-studio", studio.url]
            token = {"SPADE_INDEX_LABEL_STUDIO_TOKEN": TOKEN}
            service = subprocess.Popen(serve, stderr=subprocess.PIPE, text=True, env=os.environ | token)
            try:
                assert service.stderr is not None
                lines = map(re.compile(r"listening on (http://\S+:\d+)").search, service.stderr)
                address = next(line[1] for line in lines if line)
                take(predicted(studio, f"{address}/label-studio/gravel", demo), picture)
            finally:
                service.terminate()
                service.wait()


def predicted(studio: LabelStudio, url: str, demo: Path) -> str:
    """Return the address of a task that the gallery at `url` has predicted for."""
    project = studio.project(CONFIG)
    studio.upload(project, "part.png", (demo / "data" / "gravel" / "test" / f"{SHOWN}.png").read_bytes())
    eventually(lambda: studio.tasks(project))
    studio.ask("POST", "/api/ml", {"url": url, "project": project, "title": "gravel"})
    studio.predict(project)
    return f"{studio.url}/projects/{project}/data?task={studio.tasks(project)[0]['id']}"


def take(address: str, picture: Path) -> None:
    """Log in, and take the picture of a task."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1200, "height": 720}, reduced_motion="reduce")
        page.set_default_timeout(PAGE_MS)
        page.goto(address)
        page.fill("input[name=email]", USER)
        page.fill("input[name=password]", PASSWORD)
        page.click("button[type=submit]")
        expect(page.get_by_text("Submit", exact=True)).to_be_visible(timeout=PAGE_MS)
        page.wait_for_load_state("networkidle")
        taken = page.screenshot()
        browser.close()
    colours = Image.open(io.BytesIO(taken)).convert("RGB")
    colours.quantize(128, method=Image.Quantize.MAXCOVERAGE).save(picture, optimize=True)
    print(f"{picture}: {picture.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
