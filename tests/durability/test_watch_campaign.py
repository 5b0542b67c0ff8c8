"""That the campaign of `watch` notices what is wrong."""

import json
from pathlib import Path

from durability.watch_campaign import WatchTally, count


def verdict(image: str, id: str) -> dict[str, str]:
    return {"image": image, "id": id}


def test_what_is_lost_repeated_or_changed_is_counted(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_text("".join(json.dumps(verdict(name, name)) + "\n" for name in "aabc"))
    tally = WatchTally(4)
    posts, messages = [verdict("b", "b"), verdict("a", "a"), verdict("b", "other")], [verdict("d", "d")] * 3
    count(tally, lines, posts, messages)
    assert (tally.lost_lines, tally.lost_posts, tally.repeated_lines, tally.repeated_posts) == (1, 2, 1, 1)
    assert (tally.lost_messages, tally.repeated_messages) == (3, 2)
    assert (tally.images_with_two_ids, tally.out_of_order, tally.is_sound) == (1, 1, False)


def test_a_campaign_without_faults_is_sound(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_text(json.dumps(verdict("a", "a")) + "\n")
    tally = WatchTally(1)
    count(tally, lines, [verdict("a", "a"), verdict("a", "a")], [verdict("a", "a")])
    assert tally.is_sound
