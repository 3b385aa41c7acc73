"""What identifies a photo."""

from persam_ray.keys import image_key, version_key


def test_the_key_of_an_image_is_the_same_on_every_machine() -> None:
    assert image_key("photo 1.jpg") == 0xF8307E3A66B3C53F  # printf 'photo 1.jpg' | b2sum -l 64


def test_no_version_is_that_of_an_unread_photo() -> None:
    versions = ["", "1-a", "2-a"]
    assert len({version_key(None), *map(version_key, versions)}) == 4
