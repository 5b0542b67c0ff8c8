"""A repair that is killed at any instant is carried on by the next one."""

from pathlib import Path

import pytest

from spade_index.gallery.catalog import check
from spade_index.gallery.catalog.transaction import Transaction
from spade_index.gallery.store.shard_writer import ShardWriter
from spade_index.gallery.write import reindex, repair

from helpers.calls import Target, die_at
from helpers.damage import check_usable, damage, repaired, shard_of, without
from helpers.processes import forked, killed

REPAIRING: list[tuple[Target, int, bool]] = [
    ((ShardWriter, "append"), 2, False),
    ((ShardWriter, "commit"), 1, False),
    ((Transaction, "move_images"), 1, False),
    ((Transaction, "add_shard"), 2, False),
    ((repair, "_drop"), 1, True),
    ((Transaction, "delete_images"), 1, False),
    ((Transaction, "disable_index"), 1, False),
    ((reindex, "build_index"), 1, True),
    ((Transaction, "replace_index"), 1, False),
    ((Transaction, "forget_before"), 1, False),
    ((Path, "unlink"), 1, True),
    ((check, "make_durable"), 1, True),
]


@pytest.mark.parametrize(("target", "call", "before"), REPAIRING)
def test_killed_while_repairing(gallery_path: Path, target: Target, call: int, before: bool) -> None:
    damage(gallery_path, "001.png")
    damage(gallery_path, "008.png")
    shard_of(gallery_path, "011.png").unlink()

    def run() -> None:
        die_at(target, call, before)
        repaired(gallery_path)

    assert killed(forked(run))
    repaired(gallery_path)
    check_usable(gallery_path, without("001.png", "008.png", "010.png", "011.png"))
