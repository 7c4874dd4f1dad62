"""Fixtures of the text half."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def quantised(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_text` in 4 bits, as `genkit compress` leaves it."""
    from genkit.text.compress.directory import new_directory, record_of, write_companions, write_shape
    from genkit.text.compress.quantize import quantize_model

    out = tmp_path_factory.mktemp("quantised") / "model"
    with new_directory(out, force=False) as folder:
        shape = quantize_model(tiny_text, folder, "int4")
        write_companions(tiny_text, folder)
        write_shape(folder, shape, record_of("tiny", tiny_text, {"method": "quantize", "precision": "int4"}))
    return out
