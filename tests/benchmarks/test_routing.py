"""The benchmark of routing, on two pictures."""

from spade_index.benchmarks.routing import measure, split, write_crops

from helpers.tiny import tiny_backbone


def test_every_fifth_image_is_a_test(tmp_path):
    write_crops(tmp_path / "grass", "grass", 6)
    kept, tests = split(tmp_path / "grass")
    assert [file.id for file in tests] == ["000.png", "005.png"]
    assert [file.id for file in kept] == [f"{number:03d}.png" for number in (1, 2, 3, 4)]


def test_crops_of_two_pictures_are_told_apart(tmp_path):
    folders = {name: tmp_path / "images" / name for name in ("brick", "chelsea")}
    for name, folder in folders.items():
        write_crops(folder, name, 10)
    found = measure(folders, tmp_path / "galleries", tiny_backbone(), rounds=1)
    assert (found["galleries"], found["tests"]) == (2, 4)
    assert found["routed_wrong"] == 0
    assert found["cost"]["ratio"] > 0
