"""Everything that touches a path or a URL, through fsspec: local paths, s3://, and every other protocol of fsspec.

Credentials and endpoints come from the environment, as for every S3 tool (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...).
Writes are atomic: a reader finds a whole file or none.
"""

import errno
import io
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from aiohttp import ClientError
from botocore.exceptions import BotoCoreError
from fsspec.core import url_to_fs

from persam_ray.errors import PersamRayError
from persam_ray.text import printable, public

VERSION_MARKS = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "mtime", "updated")
"""Names under which fsspec's filesystems give a value that changes when a file is replaced."""


class StorageError(PersamRayError, OSError):
    """A path or URL cannot be read or written; the message names it and says why in one line, without secrets."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(public(message).splitlines())))


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return fsspec's filesystem and the path on it.

    Raises:
        StorageError: The protocol is unknown, or an S3 URL has credentials in it.
    """
    if re.match(r"s3a?://(?!arn:)[^/:]*:[^@]*@", uri):  # s3fs takes it for a bucket, and botocore's error repeats it
        raise StorageError(f"{uri}: S3 credentials come from AWS_ACCESS_KEY_ID and the like, not from the URL")
    try:
        expanded = os.path.expanduser(uri) if "://" not in uri else uri  # noqa: PTH111 - URLs are no Paths
        fs, _ = url_to_fs(expanded.split("::", 1)[0])  # fsspec would take `::` in a name for a chain of filesystems
    except (ValueError, ImportError) as error:
        raise StorageError(f"{uri}: {error}") from error
    return fs, fs._strip_protocol(expanded)


def absolute(uri: str) -> str:
    """Return a local path as absolute: workers may have another working directory. URLs stay as they are."""
    fs, path = filesystem(uri)
    return path if is_local(fs) else uri


def join(uri: str, *parts: str) -> str:
    """Return a URI below another. The parts stay as they are, because on S3 `a//b` is another key than `a/b`."""
    return "/".join([uri.rstrip("/"), *parts])


def base_name(uri: str) -> str:
    """Return the last part of a URI."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def within(uri: str, folder: str) -> bool:
    """Tell whether a URI is a folder's own or lies below it; both must be absolute."""
    return f"{uri.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")


@contextmanager
def storage_errors(uri: str) -> Iterator[None]:
    """Turn the errors of a filesystem into a StorageError: one line that names the URI."""
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError as error:
        raise StorageError(f"{uri}: not found{_detail(error)}") from error
    except PermissionError as error:
        raise StorageError(f"{uri}: access denied{_detail(error)}") from error
    except (OSError, BotoCoreError, ClientError) as error:
        raise StorageError(f"{uri}: {_one_line(error)}") from error


def read_bytes(uri: str) -> bytes:
    """Return a file's content.

    Raises:
        StorageError: It cannot be read.
    """
    with storage_errors(uri):
        fs, path = filesystem(uri)
        content: bytes = fs.cat_file(path)
        return content


def read_many(uris: Sequence[str], max_bytes: int | None = None) -> list[bytes | StorageError]:
    """Fetch files of one filesystem together, and return their contents in order; a failed file gives its error.

    Args:
        uris: Paths or URLs of the files.
        max_bytes: Read at most this many bytes from the beginning of each file; None reads all.
    """
    paths: dict[str, str] = {}
    content: dict[str, bytes | StorageError] = {}
    for uri in uris:
        try:
            fs, paths[uri] = filesystem(uri)
        except StorageError as error:
            content[uri] = error
    if paths:
        start = None if max_bytes is None else 0
        # `cat` would take `*` for a pattern
        found = fs.cat_ranges(list(paths.values()), start, max_bytes, on_error="return")
        if max_bytes is not None:  # S3 refuses to read a range of an empty object
            found = [b"" if isinstance(one, OSError) and one.errno == errno.EINVAL else one for one in found]
        content |= {uri: _content(one, uri) for uri, one in zip(paths, found, strict=True)}
    return [content[uri] for uri in uris]


def write_bytes(uri: str, content: bytes) -> None:
    """Write a file so that readers see all of it or nothing.

    An object store takes it in one put. On this machine it is written under another name and then renamed.

    Raises:
        StorageError: It cannot be written.
    """
    with storage_errors(uri):
        fs, path = filesystem(uri)
        if not is_local(fs):
            fs.pipe_file(path, content)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        try:
            partial.write_bytes(content)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


def write_parquet(uri: str, table: pa.Table, compression: str = "zstd", **options: Any) -> None:
    """Write a table as one Parquet file, with the options of `pyarrow.parquet.write_table`."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression=compression, **options)
    write_bytes(uri, buffer.getvalue())


def write_json(uri: str, value: object) -> None:
    """Write a value as indented JSON."""
    write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(uri: str) -> Any:
    """Return a JSON file's value.

    Raises:
        StorageError: It cannot be read, or is not JSON.
    """
    try:
        return json.loads(read_bytes(uri))
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{uri}: not valid JSON ({error})") from error


def exists(uri: str) -> bool:
    """Tell whether a file, folder or prefix exists."""
    with storage_errors(uri):
        fs, path = filesystem(uri)
        fs.invalidate_cache()  # another process may have written it since
        return bool(fs.exists(path))


def listed_uri(uri: str, name: str) -> str:
    """Return the URI of a listed file.

    A single file is listed under its own name, and its URI is `uri`. A file `a.jpg` in a folder `a.jpg` looks the same,
    so the storage is asked which it is.
    """
    below = join(uri, name)
    return uri if base_name(uri) == name and not exists(below) else below


def list_files(uri: str, suffixes: Sequence[str] = ()) -> list[str]:
    """Return the files below a folder or prefix (or the file itself), as paths relative to it, sorted.

    Args:
        uri: A folder, prefix or file.
        suffixes: Keep only names with these endings, in lower case; empty keeps all names. Hidden files are left out:
            `.x`, and files in folders `.x` or `_x`. `_MG_0001.jpg` is kept, because cameras give such names.

    Raises:
        StorageError: There is no such file or folder, or it cannot be listed.
    """
    return [name for name in list_versions(uri) if not suffixes or name.lower().endswith(tuple(suffixes))]


def list_versions(uri: str) -> dict[str, str]:
    """Return the version of each file of `list_files`: its size and ETag, or the time of its last change.

    When a file is replaced, its version changes. It is empty if the storage gives neither ETag nor time.

    Raises:
        StorageError: There is no such file or folder, or it cannot be listed.
    """
    with storage_errors(uri):
        fs, path = filesystem(uri)
        fs.invalidate_cache()
        if fs.isfile(path):
            return {base_name(path): _version(fs.info(path))}
        if is_local(fs) and not Path(path).is_dir():
            raise FileNotFoundError(f"no such folder: {path}")
        if not is_local(fs):
            _check_bucket(fs, path)
        root = path.rstrip("/") + "/"
        found = {name.removeprefix(root): _version(info) for name, info in fs.find(path, detail=True).items()}
    return {name: found[name] for name in sorted(found) if not _is_hidden(name)}


def _version(info: Mapping[str, Any]) -> str:
    mark = next((str(info[name]) for name in VERSION_MARKS if info.get(name)), "")
    return f"{info.get('size')}-{mark.strip(chr(34))}" if mark else ""


def list_sizes(uri: str) -> dict[str, int]:
    """Return the size in bytes of each file below a folder or prefix, hidden ones too, by its path relative to it.

    Raises:
        StorageError: It cannot be listed.
    """
    with storage_errors(uri):
        fs, path = filesystem(uri)
        fs.invalidate_cache()
        root = path.rstrip("/") + "/"
        found = fs.find(path, detail=True)  # one listing: sizes come with it
    return {name.removeprefix(root): int(info["size"] or 0) for name, info in found.items()}


def remove(uri: str) -> None:
    """Remove a file, or a folder or prefix with all below it, if it exists."""
    with storage_errors(uri):
        fs, path = filesystem(uri)
        fs.invalidate_cache()
        if not is_local(fs):
            for found in [path] if fs.isfile(path) else fs.find(path):
                fs.rm_file(found)  # `rm` takes `*` in a name for a pattern, and removes more
        elif fs.exists(path):
            fs.rm(path, recursive=True)
        fs.invalidate_cache()


def check_writable(uri: str) -> None:
    """Write and remove a small file below a URI.

    Raises:
        StorageError: The file cannot be written or removed.
    """
    probe = join(uri, f".write-probe-{uuid.uuid4().hex[:8]}")
    try:
        write_bytes(probe, b"")
        remove(probe)
    except StorageError as error:
        raise StorageError(f"{uri}: cannot be written ({error})") from error


def _is_hidden(name: str) -> bool:
    *folders, file_name = name.split("/")
    return file_name.startswith(".") or any(folder.startswith((".", "_")) for folder in folders)


def _check_bucket(fs: fsspec.AbstractFileSystem, path: str) -> None:
    """Raise FileNotFoundError where the bucket itself is missing: an empty listing would hide it."""
    bucket = path.split("/", 1)[0]
    if not fs.exists(path) and not fs.exists(bucket):
        raise FileNotFoundError(f"the bucket {bucket!r} does not exist")


def _content(found: bytes | Exception, uri: str) -> bytes | StorageError:
    if isinstance(found, bytes):
        return found
    try:
        with storage_errors(uri):
            raise found
    except StorageError as error:
        return error
    except Exception as error:  # a protocol's client may raise any type: it fails this file, not the job
        return StorageError(f"{uri}: {_one_line(error)}")


def is_local(fs: fsspec.AbstractFileSystem) -> bool:
    """Tell whether a filesystem is this machine's own."""
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return "file" in protocols


def _detail(error: OSError) -> str:
    text = _one_line(error)
    return f" ({text})" if text and text != type(error).__name__ else ""


def _one_line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())
