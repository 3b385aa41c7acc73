"""A label job over mutated photos: bits flipped, files cut off, headers edited; a row each, no crash, bounded memory.

python -m tests.chaos.mutated_images [--images 1000] [--seed 0]
"""

import argparse
import io
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow.dataset as ds
from PIL import Image

from tests.conftest import disc, scene

ROOT = Path(__file__).parents[2]
FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "TIFF": "tif", "GIF": "gif", "BMP": "bmp"}
HEADER_BYTES = 64
SIZES = (0, 1, 0x7FFF, 0xFFFF, 60_000, 0x7FFFFFFF, 0xFFFFFFFF)
"""Values written over header fields: sides, counts and offsets that are zero, negative or far too large."""

LIMIT_BYTES = {"driver": 500 * 10**6, "worker": 2000 * 10**6}
"""Memory limit of a process. A photo of the allowed 134 megapixels takes 400 MB as RGB, twice that while turned."""

ENDED = (0, 3)  # complete, and complete with failed photos
LIMIT_S = 900


def main() -> None:
    """Make the photos, label them while looking at the processes' memory, and check what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = write_photos(Path(folder), options.images, options.seed)
        status, stderr, peaks, seconds = run(label_command(Path(folder)))
        rows = ds.dataset(Path(folder, "labels", "predictions")).to_table().to_pylist() if status in ENDED else []
    print(f"{options.images} photos ({describe(made)}), seed {options.seed}: exit status {status} in {seconds:.0f} s")
    failed = Counter(reason(row["error"]) for row in rows if row["status"] == "failed")
    print(f"{len(rows)} rows, {sum(failed.values())} failed:")
    for text, count in failed.most_common():
        print(f"  {count:4}  {text}")
    for kind, peak in peaks.items():
        print(f"peak memory of {'the driver' if kind == 'driver' else 'the largest worker'}: {peak / 1e6:.0f} MB")
    problems = [] if status in ENDED else [f"exit status {status}: {stderr[-2000:]}"]
    if sorted(row["image_id"] for row in rows) != sorted(made):
        problems.append("the rows are not the images, each once")
    problems += [f"the {kind} took {peak / 1e6:.0f} MB" for kind, peak in peaks.items() if peak > LIMIT_BYTES[kind]]
    if "Traceback" in stderr:
        problems.append(f"a traceback: {stderr[-2000:]}")
    sys.exit("\n".join(problems) or None)


# --- photos ----------------------------------------------------------------------------------------------------------


def write_photos(folder: Path, count: int, seed: int) -> list[str]:
    """Write mutated photos and a reference; return the photos' names, which tell format and mutation."""
    generator = np.random.default_rng(seed)
    (folder / "photos").mkdir()
    Image.fromarray(scene(90, 120)).save(folder / "reference.png")
    Image.fromarray(disc(90, 120)).save(folder / "mask.png")
    sound = {file_format: variants(file_format) for file_format in FORMATS}
    names = []
    for index in range(count):
        file_format = list(FORMATS)[index % len(FORMATS)]
        name, mutate = list(MUTATIONS.items())[index // len(FORMATS) % len(MUTATIONS)]
        original = sound[file_format][int(generator.integers(len(sound[file_format])))]
        names.append(f"{index:04}-{name}.{FORMATS[file_format]}")
        (folder / "photos" / names[-1]).write_bytes(mutate(original, generator))
    return names


def variants(file_format: str) -> list[bytes]:
    """Encode a photo plainly, and in the ways of its format that other code decodes."""
    photo = Image.fromarray(scene(96, 128))
    exif = Image.Exif()
    exif[0x0112] = 6
    ways: dict[str, list[dict[str, object]]] = {
        "JPEG": [{}, {"progressive": True}, {"exif": exif}],
        "PNG": [{}, {"exif": exif}],
        "WEBP": [{}, {"lossless": True}, {"save_all": True, "append_images": [photo.rotate(90)]}],
        "TIFF": [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"compression": "jpeg"}],
        "GIF": [{}, {"save_all": True, "append_images": [photo.rotate(90)]}],
        "BMP": [{}],
    }
    modes = {"PNG": ("RGB", "RGBA", "P", "L"), "TIFF": ("RGB", "L"), "BMP": ("RGB", "P")}.get(file_format, ("RGB",))
    return [encoded(photo.convert(mode), file_format, way) for mode in modes for way in ways[file_format]]


def encoded(photo: Image.Image, file_format: str, options: dict[str, object]) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, file_format, **options)
    return buffer.getvalue()


def flip_one(content: bytes, generator: np.random.Generator) -> bytes:
    return flip(content, generator, 1)


def flip_many(content: bytes, generator: np.random.Generator) -> bytes:
    return flip(content, generator, int(generator.integers(8, 200)))


def flip(content: bytes, generator: np.random.Generator, bits: int) -> bytes:
    mutated = np.frombuffer(content, np.uint8).copy()
    places = generator.integers(0, len(mutated) * 8, bits)
    np.bitwise_xor.at(mutated, places // 8, np.uint8(1) << (places % 8).astype(np.uint8))
    return mutated.tobytes()


def cut_off(content: bytes, generator: np.random.Generator) -> bytes:
    return content[: int(generator.integers(0, len(content)))]


def edit_header(content: bytes, generator: np.random.Generator) -> bytes:
    """Write a size over one of the first fields, in either byte order."""
    width = int(generator.choice([2, 4]))
    order = "little" if generator.integers(2) else "big"
    start = int(generator.integers(2, HEADER_BYTES))
    value = int(generator.choice(SIZES)) % 2 ** (8 * width)
    changed: bytes = content[:start] + value.to_bytes(width, order) + content[start + width :]
    return changed


def exchange(content: bytes, generator: np.random.Generator) -> bytes:
    """Move a piece of the file to another place."""
    start, end, place = sorted(generator.integers(0, len(content), 3).tolist())
    return content[:start] + content[end:place] + content[start:end] + content[place:]


Mutation = Callable[[bytes, np.random.Generator], bytes]
MUTATIONS: dict[str, Mutation] = {
    "one-bit": flip_one,
    "many-bits": flip_many,
    "cut-off": cut_off,
    "header": edit_header,
    "exchanged": exchange,
}


# --- the job ---------------------------------------------------------------------------------------------------------


def label_command(folder: Path) -> list[str]:
    reference = f"disc={folder / 'reference.png'},{folder / 'mask.png'}"
    places = ["--images", str(folder / "photos"), "--output", str(folder / "labels")]
    return [sys.executable, str(ROOT / "jobs" / "label.py"), *places, "--reference", reference, "--sam", "demo"]


def run(command: list[str]) -> tuple[int, str, dict[str, int], float]:
    """Run a job; return its status, its stderr, the peak memory of driver and workers, and its seconds."""
    started_s = time.perf_counter()
    with tempfile.TemporaryFile("w+") as stderr:
        job = subprocess.Popen(command, cwd=ROOT, stderr=stderr)
        peaks = {"driver": 0, "worker": 0}
        while job.poll() is None and time.perf_counter() - started_s < LIMIT_S:
            for kind, memory in memories(job.pid):
                peaks[kind] = max(peaks[kind], memory)
            time.sleep(0.2)
        job.terminate()
        status = job.wait(60)
        stderr.seek(0)
        return status, stderr.read(), peaks, time.perf_counter() - started_s


def memories(pid: int) -> list[tuple[str, int]]:
    """Return the memory of the driver and of each Ray worker below it, what they share with others left out."""
    found = []
    try:
        driver = psutil.Process(pid)
        for process in [driver, *driver.children(recursive=True)]:
            if process.pid == pid or " ".join(process.cmdline()).startswith("ray::"):
                own = process.memory_info()
                found.append(("driver" if process.pid == pid else "worker", own.rss - own.shared))
    except psutil.Error:
        pass  # it ended while we looked
    return found


def reason(error: str) -> str:
    """Return an error without what differs between photos."""
    known = error.partition(", starting with")[0]
    text = "".join("#" if character.isdigit() else character for character in known)
    while "##" in text:
        text = text.replace("##", "#")
    return text[:110]


def describe(names: list[str]) -> str:
    counts = Counter(name.split("-", 1)[1].rpartition(".")[0] for name in names)
    return ", ".join(f"{count} {mutation}" for mutation, count in counts.items())


if __name__ == "__main__":
    main()
