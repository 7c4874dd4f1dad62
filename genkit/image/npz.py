"""Arrays out of npz files that anybody may have made."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from typing import IO

import numpy as np
from numpy.typing import NDArray

_MOST_BYTES = 1 << 30  # of one array; a million latents of 256 numbers


def read_arrays(file: IO[bytes], names: Sequence[str]) -> dict[str, NDArray[np.generic]]:
    """Those of the named arrays that an npz holds; nothing is unpickled.

    Raises:
        ValueError: no npz of numbers and text, or an array larger than a gigabyte, which is not unpacked.
        OSError: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            found = {name: info for name in names if (info := archive.NameToInfo.get(f"{name}.npy"))}
            if large := next((name for name, info in found.items() if info.file_size > _MOST_BYTES), None):
                raise _TooLarge(f"{large} of {found[large].file_size:,} bytes are too many to read")
            return {name: _array(archive, info) for name, info in found.items()}
    except (OSError, _TooLarge):
        raise
    except Exception as error:  # zipfile and NumPy's header raise anything on hostile files
        raise ValueError("not an npz of numbers") from error


class _TooLarge(ValueError):
    pass


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[np.generic]:
    with archive.open(info) as member:
        array: NDArray[np.generic] = np.lib.format.read_array(member, allow_pickle=False)
    return array
