from spade_index.wording import number_of, too_few


def test_one_is_not_many():
    assert [number_of(count, "image") for count in (0, 1, 2, 1200)] == [
        "0 images",
        "1 image",
        "2 images",
        "1,200 images",
    ]
    assert too_few(1, "image") == "1 image is too few"
    assert too_few(3, "image") == "3 images are too few"
