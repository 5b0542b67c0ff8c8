"""What `serve_load` has measured: medians, ratios, and a table of them."""

from spade_index.benchmarks.harness import Figures, medians, ratios, spread, table

PLAIN, BEFORE = "plain", ", before"  # contenders: the loop; after the number of clients: the earlier service


def summaries(rounds: dict[str, list[Figures]]) -> dict[str, Figures]:
    """Return the medians of each contender, its rates as ratios to the plain loop's, and all its rounds.

    Where an earlier service took part, `to_before` has each figure of ours as a share of that one's in the same round.
    """
    rates = {name: [found["rate"] for found in of] for name, of in rounds.items()}
    found = {name: {**medians(of), **ratios(rates[name], rates[PLAIN]), "rounds": of} for name, of in rounds.items()}
    for name, of in rounds.items():
        if earlier := rounds.get(name + BEFORE):
            pairs = list(zip(of, earlier, strict=True))
            found[name]["to_before"] = {
                field: spread([ours[field] / theirs[field] for ours, theirs in pairs], "ratio") for field in of[0]
            }
    return found


def _label(name: str) -> str:
    clients, comma, before = name.partition(",")
    return f"{clients} client{'s' * (clients != '1')}{comma}{before}"


def _range(of: Figures) -> str:
    return "{ratio:.2f} ({ratio_min:.2f} to {ratio_max:.2f})".format(**of)


def report(run: Figures) -> str:
    """Return the measurements of one kind of answer as a table."""
    rows = [["", "images/s", "ratio", "min", "max", "p50 ms", "p99 ms"]]
    for name, row in run["contenders"].items():
        label = "plain loop" if name == PLAIN else _label(name)
        shares = [f"{row[key]:.2f}" for key in ("ratio", "ratio_min", "ratio_max")]
        latency = [f"{1e3 * row[key]:.0f}" if key in row else "" for key in ("p50", "p99")]
        rows.append([label, f"{row['rate']:.1f}", *shares, *latency])
    beside = [
        f"{_label(name)}, to before: " + ", ".join(f"{field} {_range(of)}" for field, of in row["to_before"].items())
        for name, row in run["contenders"].items()
        if "to_before" in row
    ]
    return "\n".join(
        [
            f"maps={run['maps']}: {run['requests']} requests a round",
            *table(rows),
            *beside,
            "a lone client gets {ratio:.2f} of the plain loop's rate ({ratio_min:.2f} to {ratio_max:.2f})".format(
                **run["contenders"]["1"]
            ),
            "overload: {requests} images at {rate:.0f}/s: {answered} answered, {refused} refused, {lost} lost; at most "
            "{queue_most:.0f} in a queue of {queue_limit}; memory {memory_before_mb:.0f} MB before, at most "
            "{memory_most_mb:.0f} MB".format(**run["overload"]),
        ]
    )
