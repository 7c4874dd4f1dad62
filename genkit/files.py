"""Writing so that nothing is lost, and reading so that nothing is believed.

Every file that genkit leaves behind is written under a temporary name in its own
folder, flushed to the disk, and renamed: a reader sees the old file or the new
one, also after a crash. Stdlib only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, BinaryIO

from genkit.errors import InputError, OutputError

TEMPORARY = ".genkit-*.tmp"
"""Names under which unfinished writes lie; what a killed process leaves matches this."""

MAX_JSON = 16 << 20
MAX_HEADER = 100_000_000  # the limit of the safetensors library

# name -> bytes an element, in the order in which the safetensors library sorts them
DTYPES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip

_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}
_REMEDIES = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some of your quota or choose another folder",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    errno.ENOENT: "create the folder first",
    errno.ENOTDIR: "a part of this path is a file; choose another",
    errno.EEXIST: "a file of this name is in the way; choose another",
    errno.EISDIR: "this is a folder; give a file name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EFBIG: "choose a file system that takes files of this size",
}


def temporary_name() -> str:
    """A fresh name that matches `TEMPORARY`."""
    return f".genkit-{os.urandom(6).hex()}.tmp"


@contextlib.contextmanager
def output_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an OSError met while writing `path` into an OutputError with its remedy.

    A closed pipe stays BrokenPipeError, and errors about other files pass through.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        named = {os.fspath(n) for n in (error.filename, error.filename2) if isinstance(n, str | os.PathLike)}
        root = os.path.realpath(path)
        ours = {os.fspath(path), root, os.path.dirname(root)}
        if named and not any(n in ours or os.path.basename(n).startswith(".genkit-") for n in named):
            raise
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write {os.fspath(path)}: {reason}", _REMEDIES.get(error.errno or 0)) from error


@contextlib.contextmanager
def input_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an OSError met while reading `path` into an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot read {os.fspath(path)}: {error.strerror or error}") from error


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Make the names in `folder` survive a power cut."""
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def synced(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Create `path`, which must not exist, and have its bytes on the disk at the end."""
    with open(path, "xb") as file:  # the kernel applies the umask
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], *, clobber: bool = True) -> Iterator[BinaryIO]:
    """Open a file that appears under `path` complete, or not at all.

    A replaced file keeps its permissions, a new one gets them from the umask. A
    symbolic link stays and its target is replaced. Pipes and devices, such as
    /dev/stdout, are written in place.

    Args:
        clobber: False refuses to replace an existing file.

    Raises:
        OutputError: disk full, no permission, a folder, no parent folder, or an
            existing file with `clobber=False`.
    """
    with output_errors(path):
        if os.fspath(path) in _STREAMS:
            with os.fdopen(os.dup(_STREAMS[os.fspath(path)]), "wb") as stream:
                yield stream
            return
        check_name(path)
        old = _stat(path)
        if old is not None and not stat.S_ISREG(old.st_mode):
            with open(path, "wb") as stream:  # a folder raises here
                yield stream
            return
        if old is not None and not clobber:
            raise _exists(path)
        target = Path(os.path.realpath(path))
        temporary = target.with_name(temporary_name())
        try:
            with synced(temporary) as file:
                if old is not None:
                    os.chmod(temporary, stat.S_IMODE(old.st_mode))
                yield file
            if clobber:
                os.replace(temporary, target)
            else:
                _rename_new(temporary, target, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(target.parent)


def check_name(path: str | os.PathLike[str]) -> None:
    """Raise IsADirectoryError for `new/`, which names a folder whether there is one or not."""
    if os.fspath(path).endswith(os.sep):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)


def _stat(path: str | os.PathLike[str]) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _exists(path: str | os.PathLike[str]) -> OutputError:
    return OutputError(f"{os.fspath(path)} exists", "choose another name, or drop --no-clobber")


def _rename_new(temporary: Path, target: Path, path: str | os.PathLike[str]) -> None:
    """Rename, but fail when the target has appeared meanwhile."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        os.replace(temporary, target)  # a file system without hard links
    else:
        temporary.unlink()


def write_bytes(path: str | os.PathLike[str], data: bytes, *, clobber: bool = True) -> None:
    """Write `data` atomically; errors as `atomic_write`."""
    with atomic_write(path, clobber=clobber) as file:
        file.write(data)


def write_json(path: str | os.PathLike[str], value: Any, *, clobber: bool = True) -> None:
    """Write indented strict JSON atomically; errors as `atomic_write`.

    Raises:
        ValueError: `value` holds NaN or an infinity, which JSON has no name for.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, text.encode("utf-8", "backslashreplace") + b"\n", clobber=clobber)


def read_json(path: str | os.PathLike[str], *, limit: int = MAX_JSON) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        limit: bytes; the default is beyond any file of settings.

    Raises:
        InputError: missing, not a regular file, larger than `limit`, or not a JSON object.
    """
    with input_errors(path), open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise InputError(f"{os.fspath(path)} is over {limit >> 20} MB, more than such a file may have")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{os.fspath(path)} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{os.fspath(path)} holds a JSON {type(value).__name__}, not an object")
    return value


def sha256(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file.

    Raises:
        InputError: missing or unreadable.
    """
    import hashlib  # a few milliseconds that not every command needs

    with input_errors(path), open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open for reading, without waiting for ever on a pipe."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise InputError(f"{os.fspath(path)} is not a file")
    return open(path, "rb")


def check_safetensors(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and validate the header of a safetensors file, not its tensors.

    Returns:
        Tensor name -> {"dtype", "shape", "data_offsets"}, and "__metadata__" if present.

    Raises:
        InputError: missing, another format, truncated, or a header that does not
            describe the file exactly.
    """
    with input_errors(path), open_regular(path) as file:
        return read_header(file, path)[0]


def read_header(file: IO[bytes], path: str | os.PathLike[str]) -> tuple[dict[str, Any], int]:
    """As `check_safetensors`, from an open file: the header and where the data begin."""
    name = os.fspath(path)
    size = os.fstat(file.fileno()).st_size
    head = file.read(16)
    if known := _other_format(head):
        raise InputError(f"{name} is {known}, not safetensors", "genkit reads weights from safetensors only")
    length = int.from_bytes(head[:8], "little")
    if size < 8 or length > size - 8:
        raise InputError(f"{name} is truncated or not safetensors: a header of {length} bytes in a file of {size}")
    if length > MAX_HEADER:
        raise InputError(f"{name} has a header of {length} bytes; safetensors allows {MAX_HEADER}")
    file.seek(8)
    try:
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not safetensors: bad header: {error}") from error
    if not isinstance(header, dict):
        raise InputError(f"{name} is not safetensors: its header is no JSON object")
    if problem := _header_problem(header, size - 8 - length):
        raise InputError(f"{name} is not safetensors: {problem}")
    return header, 8 + length


def _other_format(head: bytes) -> str | None:
    text = head.lstrip().lower()
    if not head:
        return "empty"
    # a safetensors header of 640, 896, 1,152 or 1,408 bytes begins like a pickle, but for its brace
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and head[8:9] != b"{":
        return "a pickle, which can run code when opened"
    if head[:4] == b"PK\x03\x04":
        return "a zip archive (a PyTorch .pt file?), which can run code when opened"
    if head[:4] == b"GGUF":
        return "a GGUF file"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page"
    if text.startswith(b"version https:"):
        return "a Git LFS pointer; fetch the real file with `git lfs pull`"
    return None


def decode_utf8(data: bytes, name: str = "") -> str:
    """Text from bytes; `name` says in the error whose they are.

    Raises:
        InputError: not UTF-8; names the first wrong byte.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        wrong = f"not UTF-8 (byte {error.start} is 0x{data[error.start]:02x})"
        raise InputError(f"{name} is {wrong}" if name else wrong, "convert it with iconv") from None


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` for `json` that refuses a key that stands there twice, with ValueError."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands there twice")
    return result


def _header_problem(header: dict[str, Any], data_size: int) -> str | None:
    """Why the header does not describe `data_size` bytes exactly, or None."""
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        return "its metadata are not text"
    spans = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            return f"tensor {name!r} lacks dtype, shape or data_offsets"
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            return f"tensor {name!r} has the unknown dtype {dtype!r}"
        if not _is_sizes(shape) or len(shape) > 64 or not _is_sizes(offsets) or len(offsets) != 2:
            return f"tensor {name!r} has a shape or offsets that are not sizes"
        begin, end = offsets
        if end - begin != math.prod(shape) * DTYPES[dtype]:
            return f"tensor {name!r} does not fill its bytes {begin} to {end}"
        spans.append((begin, end, name))
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            return f"tensor {name!r} begins at byte {begin}, not {at}"
        at = end
    return None if at == data_size else f"its tensors end at byte {at} of {data_size}"


def _is_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in values)
