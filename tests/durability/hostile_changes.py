"""Random changes of the files of a gallery: of bytes, of whole files, and crafted HDF5, SQLite, FAISS and JSON."""

import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import faiss
import h5py
import numpy as np

from spade_index.gallery.catalog import check

from helpers.journals import write_journal

SECRET = b"a secret of the machine " * 400
NUMBERS = [0, 1, -1, 2, 7, 255, 2**16, 2**20, 2**31 - 1, 2**31, -(2**31), 2**53, 2**62, 2**63 - 1, -(2**63)]
FLOATS = [0.0, -0.0, 1e-320, 1e300, -1e300, float("nan"), float("inf"), float("-inf")]
TEXTS = [
    "",
    "\0",
    "x" * 100_000,
    "../../outside/secret.h5",
    "/etc/passwd",
    "ünï\ud7ff",
    "a\nb\x1b[2J",
    "1e999",
    "NaN",
    "[" * 2000,
]
TYPES = ["<f4", ">f4", "<f8", "<i8", "<u1", "S4", "<f2"]

LARGE = 100 << 20  # bytes of a file that is not changed once more

Change = Callable[[Path, random.Random], str]  # of a gallery; returns what it did


def value(rng: random.Random) -> Any:
    """Return a value that JSON and SQLite know, mostly an odd one."""
    return rng.choice([rng.choice(NUMBERS), rng.choice(FLOATS), rng.choice(TEXTS), None, rng.random() < 0.5])


def nested(rng: random.Random) -> Any:
    """Return such a value, or some in a list or an object."""
    return rng.choice([value(rng), [value(rng), value(rng)], {"x": value(rng)}, [], {}, [[[]]]])


def changed_json(found: Any, rng: random.Random) -> Any:
    """Return a JSON value in which one part is another."""
    if isinstance(found, dict) and found and rng.random() < 0.9:
        name = rng.choice(list(found))
        if rng.random() < 0.1:
            return {other: of for other, of in found.items() if other != name}
        return found | {name: changed_json(found[name], rng)}
    if isinstance(found, list) and found and rng.random() < 0.8:
        place = rng.randrange(len(found))
        return [*found[:place], changed_json(found[place], rng), *found[place + 1 :]]
    if type(found) is int and rng.random() < 0.5:
        return found + rng.choice([1, -1, 2, 1000, 10**6, 10**30, 10**400])
    return nested(rng)


def files(path: Path) -> list[Path]:
    """Return all files of a gallery and of the jobs beside it."""
    jobs = path.parent / ".spade-index"
    found = sorted(file for folder in (path, jobs) for file in folder.rglob("*"))
    return [file for file in found if file.is_file() and not file.is_symlink() and file.stat().st_size < LARGE]


def a_file(path: Path, rng: random.Random, suffix: str = "") -> Path:
    """Return one of the files, each kind as often as others."""
    found = [file for file in files(path) if file.name.endswith(suffix)]
    kind = rng.choice(sorted({(file.parent.name, file.suffix) for file in found}))
    return rng.choice([file for file in found if (file.parent.name, file.suffix) == kind])


def flip(path: Path, rng: random.Random) -> str:
    """Change some bytes of a file, or numbers that are aligned."""
    file = a_file(path, rng)
    data = bytearray(file.read_bytes() or b"\0")
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        if rng.random() < 0.5 or len(data) < 16:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        else:
            place, size = rng.randrange(0, len(data) - 8, 4), rng.choice([4, 8])
            data[place : place + size] = (rng.choice(NUMBERS) % 2 ** (8 * size)).to_bytes(size, "little")
    file.write_bytes(data)
    return f"bytes of {file.name}"


def resize(path: Path, rng: random.Random) -> str:
    """Truncate a file, or make it longer: with nothing, a terabyte of nothing, or other bytes."""
    file = a_file(path, rng)
    size = file.stat().st_size
    new = rng.choice([0, rng.randrange(size + 1), size - 1, size + 1, size + 4096, 1 << 40])
    os.truncate(file, max(0, new))
    if size < new < 1 << 30 and rng.random() < 0.5:
        file.write_bytes(file.read_bytes()[:size] + rng.randbytes(new - size))
    return f"{file.name} has {new} bytes instead of {size}"


def mix(path: Path, rng: random.Random) -> str:
    """Write a block of one file over another's, or one whole file in place of another."""
    file, other = a_file(path, rng), a_file(path, rng)
    if rng.random() < 0.3:
        shutil.copyfile(other, file) if file != other else file.write_bytes(b"")
        return f"{other.name} in place of {file.name}"
    data, block = bytearray(file.read_bytes()), other.read_bytes()
    place, start = (rng.randrange(0, max(1, len(of)), 512) for of in (data, block))
    data[place : place + 512] = block[start : start + 512]
    file.write_bytes(data)
    return f"a block of {other.name} in {file.name}"


def special(path: Path, rng: random.Random) -> str:
    """Put something else in place of a file or folder: a link, a pipe, a folder, or nothing."""
    folders = [folder for folder in path.iterdir() if folder.is_dir()]
    target = a_file(path, rng) if rng.random() < 0.8 else rng.choice(folders)
    outside = path.parents[1] / "outside"
    aside = outside / f"moved-{target.name}"
    kind = rng.choice(["link", "link to it", "device", "pipe", "folder", "nothing", "loop"])
    if kind == "link to it":
        shutil.copytree(target, aside) if target.is_dir() else shutil.copyfile(target, aside)
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    secret = outside if target in folders else outside / rng.choice(["secret.h5", "secret.txt"])
    links = {"link": secret, "link to it": aside, "device": "/dev/zero", "loop": target}
    if kind in links:
        target.symlink_to(links[kind])
    elif kind == "pipe":
        os.mkfifo(target)
    elif kind == "folder":
        target.mkdir()
    return f"{target.name}: {kind}"


def name(path: Path, rng: random.Random) -> str:
    """Add files of names that the program gives, or nearly, or a journal that names another file."""
    if rng.random() < 0.2:
        return f"{write_journal(path / 'catalog.sqlite', path.parents[1] / 'outside' / 'secret.txt').name}"
    folder = rng.choice([folder for folder in path.rglob("*") if folder.is_dir()] + [path])
    given = ["000001.h5", "000009.h5", "999999.h5", "000002.h5.tmp", "7", "00", "99999999999999999999", "catalog.tmp"]
    chosen = rng.choice([*given, "000009.h5 ", "000001.faiss", "catalog.sqlite-journal", "catalog.sqlite-wal"])
    target = folder / chosen
    if not os.path.lexists(target):
        if rng.random() < 0.5:
            target.write_bytes(rng.choice([b"", b"other bytes", a_file(path, rng).read_bytes()]))
        else:
            target.symlink_to(path.parents[1] / "outside" / "secret.h5")
    return f"a file {folder.name}/{chosen}"


def catalog(path: Path, rng: random.Random) -> str:
    """Change values, rows or tables of the catalog, and note its bytes as good."""
    with closing(sqlite3.connect(path / "catalog.sqlite", isolation_level=None)) as db:
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        table = rng.choice([table for table in tables if not table.startswith("sqlite_")])
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        column, did = rng.choice(columns), rng.choice(["value", "value", "value", "json", "json", "rows", "schema"])
        some = f"rowid IN (SELECT rowid FROM {table} ORDER BY random() LIMIT {rng.choice([1, 1000])})"
        db.execute("PRAGMA foreign_keys = OFF")
        try:
            if did == "value":
                new = rng.choice([value(rng), rng.randbytes(rng.choice([1, 16, 5000]))])
                db.execute(f"UPDATE {table} SET {column} = ? WHERE {some}", (new,))
            elif did == "json":
                did = _json(db, rng)
            elif did == "rows":
                db.execute(f"DELETE FROM {table} WHERE {some}")
            else:
                did = _schema(db, table, column, path, rng)
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            did += f" ({error})"
    if rng.random() < 0.8:
        check.write(path / "catalog.sqlite")
    return f"catalog: {did} of {table}.{column}"


def _json(db: sqlite3.Connection, rng: random.Random) -> str:
    """Change a part of a JSON value."""
    places = [("meta", "value"), ("snapshots", "moments"), ("indexes", "description"), ("calibrations", "value")]
    table, column = rng.choice([places[0], *places])
    like = f"WHERE {column} LIKE '{{%' OR {column} LIKE '[%'"
    rows = db.execute(f"SELECT rowid, {column} FROM {table} {like}").fetchall()
    if rows:
        row, text = rng.choice(rows)
        new = json.dumps(changed_json(json.loads(text), rng))
        db.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (new, row))
    return f"JSON in {table}"


def _schema(db: sqlite3.Connection, table: str, column: str, path: Path, rng: random.Random) -> str:
    outside = path.parents[1] / "outside" / "made.sqlite"
    statements = [
        f"DROP TABLE {table}",
        f"ALTER TABLE {table} RENAME COLUMN {column} TO other",
        f"ALTER TABLE {table} ADD COLUMN more TEXT DEFAULT 'x'",
        f"CREATE TRIGGER t AFTER INSERT ON {table} BEGIN DELETE FROM images; END",
        f"ALTER TABLE {table} RENAME TO old; CREATE VIEW {table} AS SELECT * FROM old",
        f"CREATE INDEX odd ON {table} (abs({column}))",
        f"CREATE UNIQUE INDEX odd ON {table} ({column})",
        f"ATTACH '{outside}' AS other; CREATE TABLE other.x (y)",
        "PRAGMA journal_mode = WAL",
        "PRAGMA page_size = 512; VACUUM",
        "PRAGMA user_version = 7",
        "PRAGMA encoding = 'UTF-16'",
        "DELETE FROM sqlite_sequence",
        f"UPDATE sqlite_sequence SET seq = {rng.choice(NUMBERS)}",
    ]
    chosen = rng.choice(statements)
    db.executescript(chosen)
    outside.unlink(missing_ok=True)
    return chosen


def hdf5(path: Path, rng: random.Random) -> str:
    """Put another dataset, link or attribute into an HDF5 file."""
    file, outside = a_file(path, rng, ".h5"), path.parents[1] / "outside" / "secret.h5"
    with h5py.File(file, "r+") as opened:
        names: list[str] = []
        opened.visit(names.append)
        did = rng.choice(["shape", "type", "values", "external", "link", "filter", "attribute"])
        name = rng.choice(names)
        if did == "attribute":
            attribute = rng.choice([*opened.attrs, "new"])
            old = opened.attrs.get(attribute)
            text = json.dumps(changed_json(json.loads(old), rng)) if isinstance(old, str) and "{" in old else value(rng)
            opened.attrs[attribute] = "" if text is None else text
            return f"attribute {attribute} of {file.name}"
        found = opened[name]
        shape = found.shape if isinstance(found, h5py.Dataset) else (3,)
        dtype = found.dtype if isinstance(found, h5py.Dataset) else np.dtype("<f4")
        old_values = found[:] if isinstance(found, h5py.Dataset) else None
        del opened[name]
        _put(opened, name, did, shape, dtype, old_values, outside, rng)
    return f"{did} of {name} in {file.name}"


def _put(
    opened: h5py.File, name: str, did: str, shape: Any, dtype: Any, values: Any, outside: Path, rng: random.Random
) -> None:
    if did == "shape":
        large = tuple(rng.choice([0, 1, size, size + 1, 2 * size, 2**31, 2**40]) for size in shape)
        large = large if rng.random() < 0.8 else (*large, 1)
        chunks = tuple(max(1, min(8, n)) for n in large) if all(large) else None
        opened.create_dataset(name, large, dtype, chunks=chunks)
    elif did == "type":
        opened.create_dataset(name, shape, rng.choice(TYPES))
    elif did == "values" and values is not None and dtype.kind in "fiu":
        values = values.copy()
        odd = rng.choice(FLOATS) if dtype.kind == "f" else rng.choice(NUMBERS)
        with np.errstate(over="ignore"):
            values.flat[rng.randrange(values.size)] = np.array(odd).astype(dtype)
        opened.create_dataset(name, data=values, chunks=(1, *shape[1:]) if name.startswith("maps/") else None)
    elif did == "external":
        fitting = dtype if dtype.kind in "fiu" else np.dtype("u1")
        size = int(np.prod(shape)) * fitting.itemsize
        opened.create_dataset(name, shape, fitting, external=[(str(outside), 0, size)])
    elif did == "link":
        links = [h5py.ExternalLink(str(outside), "stolen"), h5py.SoftLink("/elsewhere"), h5py.SoftLink("/" + name)]
        opened[name] = rng.choice(links)
    elif values is not None and dtype.kind in "fiu" and values.size:
        opened.create_dataset(name, data=values, chunks=True, compression="gzip")


def index(path: Path, rng: random.Random) -> str:
    """Replace the index by another one that FAISS reads."""
    file = a_file(path, rng, ".faiss")
    dim, count = rng.choice([1, 11, 12, 12, 12, 13, 64]), rng.choice([0, 1, 12, 100])
    vectors = np.random.default_rng(rng.randrange(100)).normal(size=(count, dim)).astype(np.float32)
    keys = np.array([rng.choice([n, n, n, *NUMBERS]) for n in range(count)], np.int64)
    made = rng.choice(["Flat", "IDMap,Flat", "IDMap2,Flat", "IVF1,Flat", "HNSW8", "SQ8", "LSH", "PCA8,IVF1,Flat"])
    metric = rng.choice([faiss.METRIC_L2, faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L1])
    try:
        built = faiss.index_factory(dim, made, metric)
        if count:
            built.train(vectors)
            built.add_with_ids(vectors, keys) if made.startswith(("IDMap", "IVF", "PCA")) else built.add(vectors)
        faiss.write_index(built, str(file))
    except RuntimeError as error:
        return f"no index {made} ({str(error)[:50]!r})"
    return f"index {made} of {count} x {dim} in {file.name}"


def record(path: Path, rng: random.Random) -> str:
    """Change a job's record, or the small files of a gallery."""
    file = rng.choice([file for file in files(path) if file.suffix == ".json"])
    if rng.random() < 0.7:
        file.write_text(json.dumps(changed_json(json.loads(file.read_text()), rng)))
        return "the record of a job"
    small = rng.choice([path / "catalog.check", path / "writer.lock", file])
    small.write_text(rng.choice([*TEXTS[:6], "1 2 3", "-1 5", f"{10**30} {10**30}", "5 " + "9" * 60, "1\n2\n3"]))
    return f"text of {small.name}"


CHANGES: list[Change] = [flip, flip, resize, mix, special, name, catalog, catalog, hdf5, hdf5, index, record]
