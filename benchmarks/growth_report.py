"""The growth benchmark's figures as two tables: ours beside its peers, and what else ours costs."""

from typing import Any

from spade_index.benchmarks.growth_peers import TITLES

Entry = dict[str, Any]

OURS = "ours"
COLUMNS = ("images", "", "ms", "p90", "p99", "recall@50", "own MB", "file MB", "build s", "peak MB", "")
ALIGNED = "{:>9}  {:36}{:>8}{:>8}{:>8}{:>11}{:>9}{:>9}{:>9}{:>9}  {}"


def table(results: Entry) -> str:
    """Nearest images: a line for each size and contender."""
    real = f"{results['real']:,} photographs, beyond them descriptors drawn around theirs"
    lines = [
        f"the 50 nearest images of {results['test_queries']:,} queries, one at a time, in a gallery of {real}",
        "own and file MB: resident after all queries; peak MB: of building; all above what libraries take",
        ALIGNED.format(*COLUMNS),
    ]
    for entry in results["sizes"]:
        search, index = entry["search"], entry["index"]
        ours = {**search, "seconds": index["seconds"], "peak_mb": index["peak_mb"], "text": _index(index)}
        lines.append(_line(f"{entry['images']:,}", OURS, ours))
        lines += [_peer_line(TITLES[key], peer) for key, peer in entry["peers"].items()]
    lines += [f"{int(size):>9,}  left out: {reason}" for size, reason in results["sizes_left_out"].items()]
    return "\n".join(line.rstrip() for line in lines)


def _index(index: Entry) -> str:
    if index["kind"] == "flat":
        return "flat"
    return f"{index['kind']}, nlist {index['nlist']}, nprobe {index['nprobe']}, {index['candidates']} candidates"


def _peer_line(title: str, peer: Entry) -> str:
    return _line("", title, peer) if peer["status"] == "ok" else f"{'':9}  {title:36}left out: {peer['reason']}"


def _line(images: str, title: str, entry: Entry) -> str:
    return ALIGNED.format(
        images,
        title,
        f"{entry['ms']:.2f}",
        f"{entry['ms_p90']:.2f}",
        f"{entry['ms_p99']:.2f}",
        f"{entry['recall']:.4f}",
        f"{entry['resident']['anonymous_mb']:,.0f}",
        f"{entry['resident']['file_mb']:,.0f}",
        f"{entry['seconds']:,.1f}",
        f"{entry['peak_mb']:,.0f}",
        entry["text"],
    )


ROWS = (  # what it is, and how it is found in a size's entry
    ("photographs", lambda e: f"{e['real']:,}"),
    ("drawn around them", lambda e: f"{e['drawn']:,}"),
    ("shards, GB", lambda e: f"{e['disk']['shards'] / 1e9:,.2f}"),
    ("descriptors file, GB", lambda e: f"{e['disk']['descriptors'] / 1e9:,.3f}"),
    ("index file, GB", lambda e: f"{e['disk']['index'] / 1e9:,.3f}"),
    ("catalog, GB", lambda e: f"{e['disk']['catalog'] / 1e9:,.3f}"),
    ("open and first query, warm, ms", lambda e: f"{e['search']['open_and_first_ms']:,.0f}"),
    ("open and first query, cold, ms", lambda e: f"{e['cold']['first_ms']:,.0f}"),
    ("   read from disk, MB", lambda e: _megabytes(e["cold"]["first_bytes"])),
    ("query after it, cold, ms", lambda e: f"{e['cold']['ms']:,.1f}"),
    ("   read from disk, MB", lambda e: _megabytes(e["cold"]["bytes"])),
    ("   in probed lists, MB", lambda e: _megabytes(e["check"]["list_bytes"])),
    ("   of candidates, MB", lambda e: _megabytes(e["check"]["candidate_bytes"])),
    ("resident when opened, own MB", lambda e: f"{e['search']['opened']['anonymous_mb']:,.1f}"),
    ("   of files, MB", lambda e: f"{e['search']['opened']['file_mb']:,.1f}"),
    ("50 maps read, warm, ms", lambda e: f"{e['pixels']['warm']['maps_ms']:.2f}"),
    ("   in shards not read before, ms", lambda e: f"{e['pixels']['new']['maps_ms']:.2f}"),
    ("   cold, ms", lambda e: f"{e['pixels']['cold']['maps_ms']:.1f}"),
    ("   cold, read from disk, MB", lambda e: _megabytes(e["pixels"]["cold"]["bytes"])),
    ("pixel search, warm, ms", lambda e: f"{e['pixels']['warm']['search_ms']:.2f}"),
    ("images added", lambda e: f"{e['add']['images']}"),
    ("   seconds", lambda e: f"{e['add']['add_s']:.2f}"),
    ("   to remove them, seconds", lambda e: f"{e['add']['remove_s']:.2f}"),
)


def costs(results: Entry) -> str:
    """What else a gallery costs: a column for each size."""
    lines = [f"{'images':34}" + "".join(f"{entry['images']:>13,}" for entry in results["sizes"])]
    for name, of in ROWS:
        lines.append(f"{name:34}" + "".join(f"{of(entry):>13}" for entry in results["sizes"]))
    lines.append(f"a query's 50 maps are {_megabytes(50 * results['map_bytes'])} MB")
    return "\n".join(lines)


def _megabytes(count: float | None) -> str:
    return "not counted" if count is None else f"{count / 1e6:,.3g}"
