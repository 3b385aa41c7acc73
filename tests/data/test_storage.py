import json
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import s3fs
from moto.server import ThreadedMotoServer

from persam_ray.data import storage
from persam_ray.data.storage import (
    StorageError,
    base_name,
    check_writable,
    exists,
    filesystem,
    join,
    list_files,
    list_sizes,
    read_bytes,
    read_json,
    read_many,
    remove,
    within,
    write_bytes,
    write_json,
)

# What a camera, a person or a script may call a file. fsspec gives a meaning to some of these characters.
ODD_NAMES = (
    "a b.jpg", "ü 日本.jpg", "quote'\".jpg", "hash#1.jpg", "per%20cent.jpg", "q?.jpg", "star*.jpg", "br[1].jpg",
    "br1.jpg", "{a,b}.jpg", "a::b.jpg", "a:b.jpg", "a;b&c=d+e.jpg", "back\\slash.jpg", "~t.jpg", "-dash.jpg",
    "a..b.jpg", "_MG_0001.JPG",
)  # fmt: skip


# --- names -----------------------------------------------------------------------------------------------------------


def test_parts_are_joined_by_one_slash() -> None:
    assert join("s3://bucket/run/", "predictions", "a.parquet") == "s3://bucket/run/predictions/a.parquet"
    assert join("/", "a") == "/a"
    assert join("folder", "b/c.jpg") == "folder/b/c.jpg"


def test_a_double_slash_within_a_key_is_kept() -> None:
    assert join("s3://bucket/photos", "/x.jpg") == "s3://bucket/photos//x.jpg"


@pytest.mark.parametrize("uri", ["s3://bucket/a/b.jpg", "/a/b.jpg", "b.jpg", "a/b.jpg/"])
def test_the_base_name_is_the_last_part(uri: str) -> None:
    assert base_name(uri) == "b.jpg"


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(StorageError, match=r"^nowhere://x: Protocol not known: nowhere$"):
        filesystem("nowhere://x")


def test_the_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_bytes(b"1")
    assert read_bytes("~/a.txt") == b"1"


# --- local files -----------------------------------------------------------------------------------------------------


@pytest.fixture
def odd_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "odd [names] #1 ü %41?* a::b"
    folder.mkdir()
    for name in ODD_NAMES:
        (folder / name).write_bytes(name.encode())
    return folder


def test_every_name_is_listed_and_read_as_it_is(odd_folder: Path) -> None:
    names = list_files(str(odd_folder))
    assert names == sorted(ODD_NAMES)
    assert read_many([join(str(odd_folder), name) for name in names]) == [name.encode() for name in names]
    assert [read_bytes(join(str(odd_folder), name)) for name in names] == [name.encode() for name in names]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_file_of_any_name_is_written_found_and_removed_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "bystander.jpg").write_bytes(b"")
    uri = join(str(tmp_path), name)
    write_bytes(uri, b"content")
    assert (tmp_path / name).read_bytes() == b"content"
    assert exists(uri)
    assert list_files(uri) == [name]
    remove(uri)
    assert [path.name for path in tmp_path.iterdir()] == ["bystander.jpg"]


@pytest.mark.parametrize("written", ["{}", "{}/", "{}//", "file://{}", "file://{}/"])
def test_a_folder_may_be_written_in_several_ways(odd_folder: Path, written: str) -> None:
    uri = written.format(odd_folder)
    assert list_files(uri) == sorted(ODD_NAMES)
    assert read_bytes(join(uri, "a b.jpg")) == b"a b.jpg"


@pytest.mark.parametrize("uri", [".", "./", "../here", "sub/..", "../here/sub/.."])
def test_relative_paths_are_relative_to_the_current_folder(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "sub").mkdir(parents=True)
    (tmp_path / "here" / "a.jpg").write_bytes(b"1")
    monkeypatch.chdir(tmp_path / "here")
    assert list_files(uri) == ["a.jpg"]
    assert read_many([join(uri, "a.jpg")] * 2) == [b"1", b"1"]


def test_hidden_files_and_folders_of_other_tools_are_left_out(tmp_path: Path) -> None:
    for name in ("a.jpg", "_MG_1.jpg", "b/c.jpg", ".hidden.jpg", ".git/x.jpg", "_temporary/x.jpg", "b/._c.jpg"):
        write_bytes(str(tmp_path / name), b"")
    assert list_files(str(tmp_path)) == ["_MG_1.jpg", "a.jpg", "b/c.jpg"]


def test_what_is_hidden_is_told_below_the_folder_only(tmp_path: Path) -> None:
    write_bytes(str(tmp_path / ".cache" / "_x" / "a.jpg"), b"")
    assert list_files(str(tmp_path / ".cache" / "_x")) == ["a.jpg"]


def test_suffixes_are_compared_in_lower_case(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.jpg", "c.txt", "jpg"):
        (tmp_path / name).write_bytes(b"")
    assert list_files(str(tmp_path), (".jpg",)) == ["a.JPG", "b.jpg"]


def test_sizes_are_of_all_files_hidden_ones_too(tmp_path: Path) -> None:
    for name, size in (("a/b.bin", 3), (".hidden", 2), ("empty", 0)):
        write_bytes(str(tmp_path / name), b"x" * size)
    assert list_sizes(str(tmp_path)) == {"a/b.bin": 3, ".hidden": 2, "empty": 0}
    assert list_sizes(str(tmp_path / "nowhere")) == {}


def test_a_folder_is_within_itself_and_not_within_one_of_a_longer_name() -> None:
    assert within("/a/b", "/a")
    assert within("s3://bucket/a/", "s3://bucket/a")
    assert not within("/ab", "/a")
    assert not within("/a", "/a/b")


def test_links_to_files_are_files_and_dangling_ones_are_listed(tmp_path: Path) -> None:
    (tmp_path / "real.jpg").write_bytes(b"1")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "real.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    names = list_files(str(tmp_path))
    assert names == ["gone.jpg", "link.jpg", "real.jpg"]
    gone, *found = read_many([join(str(tmp_path), name) for name in names])
    assert isinstance(gone, StorageError)
    assert found == [b"1", b"1"]


def test_an_empty_folder_lists_nothing_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    assert list_files(str(tmp_path)) == []
    with pytest.raises(StorageError, match="nowhere: not found"):
        list_files(str(tmp_path / "nowhere"))


def test_reading_what_is_not_there_says_so_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"^[^\n]*nowhere\.jpg: not found[^\n]*$"):
        read_bytes(str(tmp_path / "nowhere.jpg"))
    with pytest.raises(StorageError, match="directory"):
        read_bytes(str(tmp_path))


def test_reading_many_keeps_order_repeats_and_errors_in_their_place(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"A")
    (tmp_path / "b").write_bytes(b"B")
    found = read_many([str(tmp_path / name) for name in ("b", "nowhere", "a", "b")])
    assert (found[0], found[2], found[3]) == (b"B", b"A", b"B")
    assert str(found[1]).startswith(f"{tmp_path}/nowhere: not found")
    assert read_many([]) == []
    assert isinstance(read_many([str(tmp_path / "nowhere")])[0], StorageError)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "a.json")
    write_bytes(uri, b"old")

    def fail(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:1])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(StorageError, match="disk full"):
        write_bytes(uri, b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.json", b"old")]


def test_a_written_file_replaces_the_old_one_whole(tmp_path: Path) -> None:
    uri = str(tmp_path / "new folder" / "a.bin")
    write_bytes(uri, b"a longer content")
    write_bytes(uri, b"short")
    assert read_bytes(uri) == b"short"
    assert len(list((tmp_path / "new folder").iterdir())) == 1


def test_json_survives_writing(tmp_path: Path) -> None:
    value = {"ü": [1, 2.5, None, True], "nested": {"a": "b"}}
    write_json(str(tmp_path / "a.json"), value)
    assert read_json(str(tmp_path / "a.json")) == value
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == value


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\xfd"])
def test_what_is_not_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(StorageError, match=r"a\.json: not valid JSON"):
        read_json(str(tmp_path / "a.json"))


def test_a_folder_is_removed_with_all_below_it_and_what_is_gone_is_no_error(tmp_path: Path) -> None:
    write_bytes(str(tmp_path / "run*" / "a" / "b.json"), b"")
    write_bytes(str(tmp_path / "run1" / "a.json"), b"")
    remove(str(tmp_path / "run*"))
    remove(str(tmp_path / "run*"))
    assert [path.name for path in tmp_path.iterdir()] == ["run1"]


def test_probing_leaves_nothing_behind(tmp_path: Path) -> None:
    check_writable(str(tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file/out: cannot be written"):
        check_writable(str(tmp_path / "file" / "out"))


def test_a_folder_without_permission_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, content: bytes) -> int:
        raise PermissionError(13, "Permission denied", str(path))  # tests may run as root, who may write anywhere

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(StorageError, match=r"out: cannot be written .* access denied"):
        check_writable(str(tmp_path / "out"))


# --- S3 --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket, by its URI."""
    variables = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_MAX_ATTEMPTS": "1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = uuid.uuid4().hex
    boto3.client("s3").create_bucket(Bucket=name)
    yield f"s3://{name}"
    s3fs.S3FileSystem.clear_instance_cache()


def put(bucket: str, *keys: str) -> None:
    """Write keys past the code under test; the content of each is its own name."""
    client = boto3.client("s3")
    for key in keys:
        client.put_object(Bucket=bucket.removeprefix("s3://"), Key=key, Body=key.encode())


def keys_of(bucket: str) -> list[str]:
    return [entry["Key"] for entry in boto3.client("s3").list_objects_v2(Bucket=bucket[5:]).get("Contents", [])]


@pytest.mark.s3
def test_every_key_is_listed_and_read_as_it_is(bucket: str) -> None:
    put(bucket, *(f"photos/{name}" for name in ODD_NAMES), "photos/sub dir#/x.jpg", "photos2/no.jpg")
    names = list_files(f"{bucket}/photos")
    assert names == sorted([*ODD_NAMES, "sub dir#/x.jpg"])
    assert read_many([join(bucket, "photos", name) for name in names]) == [f"photos/{name}".encode() for name in names]


@pytest.mark.s3
def test_a_key_may_have_an_empty_part(bucket: str) -> None:
    put(bucket, "photos//x.jpg")
    (name,) = list_files(f"{bucket}/photos")
    assert read_many([join(bucket, "photos", name)] * 2) == [b"photos//x.jpg"] * 2


@pytest.mark.s3
def test_an_object_of_any_name_is_written_found_and_removed_alone(bucket: str) -> None:
    put(bucket, "run/bystander.jpg", "run/br2.jpg", "run/star.jpg", "run/qq.jpg")
    others = keys_of(bucket)
    for name in ODD_NAMES:
        uri = join(bucket, "run", name)
        write_bytes(uri, name.encode())
        assert set(keys_of(bucket)) == {*others, f"run/{name}"}
        assert read_bytes(uri) == name.encode()
        assert exists(uri)
        assert list_files(uri) == [name]
        remove(uri)
        assert keys_of(bucket) == others, name


@pytest.mark.s3
def test_removing_a_prefix_removes_no_other_that_its_stars_would_match(bucket: str) -> None:
    put(bucket, "run*/a.json", "run*/b/c.json", "run1/a.json", "run/a.json")
    remove(f"{bucket}/run*")
    remove(f"{bucket}/run*")
    assert keys_of(bucket) == ["run/a.json", "run1/a.json"]


@pytest.mark.s3
def test_a_prefix_is_a_folder_not_the_beginning_of_a_name(bucket: str) -> None:
    put(bucket, "photos/a.jpg")
    assert list_files(f"{bucket}/photos/") == ["a.jpg"]
    assert list_files(bucket) == ["photos/a.jpg"]
    assert list_files(f"{bucket}/pho") == []
    assert not exists(f"{bucket}/pho")
    assert exists(f"{bucket}/photos")


@pytest.mark.s3
def test_a_listing_is_never_stale(bucket: str) -> None:
    put(bucket, "photos/a.jpg")
    assert list_files(f"{bucket}/photos") == ["a.jpg"]
    put(bucket, "photos/b.jpg")  # by another process, as far as fsspec's cache knows
    assert list_files(f"{bucket}/photos/b.jpg") == ["b.jpg"]
    assert list_files(f"{bucket}/photos") == ["a.jpg", "b.jpg"]
    put(bucket, "photos/c.jpg")
    assert exists(f"{bucket}/photos/c.jpg")


@pytest.mark.s3
def test_a_missing_bucket_is_an_error_and_an_empty_one_is_not(bucket: str) -> None:
    assert list_files(bucket) == []
    with pytest.raises(StorageError, match="the bucket 'no-such-bucket' does not exist"):
        list_files("s3://no-such-bucket/photos")
    with pytest.raises(StorageError, match=r"^s3://no-such-bucket/out: cannot be written \([^\n]*\)$"):
        check_writable("s3://no-such-bucket/out")


@pytest.mark.s3
def test_a_missing_object_is_named(bucket: str) -> None:
    with pytest.raises(StorageError, match=f"^{bucket}/nowhere.jpg: not found"):
        read_bytes(f"{bucket}/nowhere.jpg")
    put(bucket, "a.jpg")
    found = read_many([f"{bucket}/nowhere.jpg", f"{bucket}/a.jpg"])
    assert str(found[0]).startswith(f"{bucket}/nowhere.jpg: not found")
    assert found[1] == b"a.jpg"


@pytest.mark.s3
def test_probing_a_prefix_leaves_nothing_behind(bucket: str) -> None:
    check_writable(f"{bucket}/out")
    assert keys_of(bucket) == []


@pytest.mark.s3
def test_a_server_that_does_not_answer_is_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        s3fs.S3FileSystem.clear_instance_cache()
        monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
        with pytest.raises(StorageError, match=r"^s3://b/a: Could not connect to the endpoint URL[^\n]*$"):
            storage.read_bytes("s3://b/a")
