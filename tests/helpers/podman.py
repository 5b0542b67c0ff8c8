"""Podman with a storage of its own, and a base image made of Debian's packages in place of one that is pulled."""

import configparser
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

BASE = "debian:bookworm-slim"
LONGEST = 3600  # seconds of a command


class Podman:
    """Runs commands of podman. Needs root."""

    def __init__(self, folder: Path) -> None:
        """Keep everything below `folder`, which may be there from an earlier run: what is in it is not done again."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        # By default, podman asks for more than a machine that is itself confined may give.
        (folder / "containers.conf").write_text(
            f'[containers]\ndefault_ulimits = ["nofile={most}:{most}", "nproc=4096:4096"]\n[engine]\nruntime = "runc"\n'
        )

    def __call__(self, *arguments: object, check: bool = True) -> str:
        """Run a command; return its standard output. Raises CalledProcessError if it fails."""
        command = ["podman", "--root", self._folder / "storage", "--runroot", self._folder / "run", *arguments]
        environment = os.environ | {"CONTAINERS_CONF": str(self._folder / "containers.conf")}
        ran = subprocess.run(
            list(map(str, command)), env=environment, stdout=subprocess.PIPE, text=True, timeout=LONGEST, check=check
        )
        return ran.stdout

    def make_base(self) -> None:
        """Make the base image of Debian's packages."""
        if self("images", "--quiet", BASE):
            return
        root = self._folder / "root"
        subprocess.run(["debootstrap", "--variant=minbase", "bookworm", root], check=True, timeout=LONGEST)
        archive = self._folder / "root.tar"
        subprocess.run(["tar", "--create", "--file", archive, "--directory", root, "."], check=True)
        self("import", archive, BASE)
        archive.unlink()
        shutil.rmtree(root)

    def build(self, context: Path, tag: str, **arguments: str) -> None:
        """Build an image of a Dockerfile; `pip` in it finds packages where that of this machine does."""
        given = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
        options = ["--format", "docker", "--isolation", "chroot", "--network", "host", "--pull=never", *given]
        self("build", *options, *self._pip_volumes(), "--tag", tag, context)

    def _pip_volumes(self) -> list[str]:
        """Return the options that mount this machine's configuration of pip, and the local files that it names."""
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
        ).stdout
        config, volumes = configparser.RawConfigParser(), ["--volume", f"{self._folder / 'pip.conf'}:/etc/pip.conf:ro"]
        config.add_section("global")
        for line in listed.splitlines():
            name, _, value = line.partition("=")
            value = value.strip("'").replace("\\n", "\n")
            if name.endswith(".cert"):  # the place of Debian's own would be in the way of its package
                volumes += ["--volume", f"{value}:/etc/pip.pem:ro"]
                value = "/etc/pip.pem"
            else:
                volumes += [part for path in _paths(value) for part in ("--volume", f"{path}:{path}:ro")]
            config.set("global", name.rpartition(".")[2], value)
        with open(self._folder / "pip.conf", "w") as file:
            config.write(file)
        return volumes


def _paths(value: str) -> list[Path]:
    """Return the files and folders that a setting of pip names; of an index its parent, which has the packages."""
    named = [(word, Path(word.removeprefix("file://"))) for word in value.split()]
    return [
        path.parent if word.startswith("file:") else path
        for word, path in named
        if path.is_absolute() and path.exists()
    ]
