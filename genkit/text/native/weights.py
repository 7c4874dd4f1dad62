"""A model folder's weights where the native decoder reads them: mapped, if they are fp32."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path
from typing import Any

from genkit.errors import InputError
from genkit.files import input_errors, open_regular, read_header
from genkit.library import weight_files
from genkit.text.config import GPTConfig
from genkit.text.native.library import GROUP, Shape, library

_ARCHES = ("gpt2", "llama", "qwen3")  # by their numbers in decode.c
_FLOAT = 4  # bytes


class Weights:
    """The tensors of a folder with `config`'s shape.

    Args:
        precision: "fp32", or "int8" for matrices of 8 bits: each 32 numbers of a row have a
            scale, as in llama.cpp's Q8_0. Rows of another length stay fp32.

    Attributes:
        shape: the sizes.
        tensors: their addresses, in the order of `gk_open`.
        rounded: some matrix is in 8 bits.

    Raises:
        InputError: a tensor is missing, or has another shape, or its numbers are no floats.
        ResourceError: the decoder is not built, or does not run here.
    """

    def __init__(self, folder: Path, config: GPTConfig, precision: str = "fp32") -> None:
        self.folder, self.config, self.precision = folder, config, precision
        self.rounded, self._library = False, library()
        self._kept: list[Any] = []  # memory that the addresses point into
        self._found: dict[str, tuple[int, list[int]]] = {}  # address and shape
        if not all(self._map(path) for path in weight_files(folder)):
            self._convert()
        sizes = (config.n_layer, config.n_head, config.n_kv_head, config.n_embd, config.head_dim, config.n_inner)
        numbers = (_ARCHES.index(config.arch), config.vocab_size, config.block_size, *sizes)
        self.shape = Shape(*numbers, config.norm_eps, config.rope_theta)
        self.tensors = self._gpt2() if config.arch == "gpt2" else self._llama()

    def _map(self, path: Path) -> bool:
        """Whether all tensors of a file can be read where they lie."""
        with input_errors(path), open_regular(path) as file:
            header, begin = read_header(file, path)
            # private pages: never written, and ctypes names addresses of writable memory alone
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._kept.append(mapped)
        base = ctypes.addressof(ctypes.c_char.from_buffer(mapped)) + begin
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            address = base + entry["data_offsets"][0]
            if entry["dtype"] != "F32" or address % _FLOAT:
                return False
            self._found[name] = address, entry["shape"]
        return True

    def _convert(self) -> None:
        """Halves and few bits to fp32."""
        from genkit.text.packed import open_weights

        self._kept.clear()
        self._found.clear()
        for name, weight in open_weights(self.folder).items():
            values = weight.floats()
            self._kept.append(values)
            self._found[name] = values.ctypes.data, list(weight.shape)

    def _address(self, name: str, *shape: int) -> int:
        known = name if name in self._found else name.removeprefix("transformer.")  # as the first GPT-2s were saved
        if known not in self._found:
            raise InputError(f"{self.folder}: the weights lack {name}", "use the files of one model")
        address, found = self._found[known]
        if tuple(found) != shape:
            problem = f"{self.folder}: {known} is {found}, not {[*shape]}"
            raise InputError(problem, "config.json and model.safetensors must come from the same model")
        return address

    def _matrix(self, address: int, rows: int, columns: int) -> tuple[int | None, ...]:
        """`Matrix` of kernels.h."""
        if self.precision != "int8" or columns % GROUP:
            return address, None, None
        levels, scales = (ctypes.c_int8 * (rows * columns))(), (ctypes.c_float * (rows * columns // GROUP))()
        self._kept += [levels, scales]
        self.rounded = True
        places = ctypes.addressof(levels), ctypes.addressof(scales)
        self._library.gk_round(address, *places, rows, columns)
        return address, *places

    def _head(self, embed: int) -> tuple[int | None, ...]:
        c = self.config
        head = embed if c.tie_embeddings else self._address("lm_head.weight", c.vocab_size, c.n_embd)
        return self._matrix(head, c.vocab_size, c.n_embd)

    def _llama(self) -> list[int | None]:
        c, C = self.config, self.config.n_embd
        q, kv = c.n_head * c.head_dim, c.n_kv_head * c.head_dim
        matrices = {
            "self_attn.q_proj": (q, C), "self_attn.k_proj": (kv, C), "self_attn.v_proj": (kv, C),
            "self_attn.o_proj": (C, q), "mlp.gate_proj": (c.n_inner, C), "mlp.up_proj": (c.n_inner, C),
            "mlp.down_proj": (C, c.n_inner),
        }  # fmt: skip
        embed = self._address("model.embed_tokens.weight", c.vocab_size, C)
        found = [embed, None, self._address("model.norm.weight", C), None, *self._head(embed)]
        for layer in range(c.n_layer):
            at = f"model.layers.{layer}"
            for name, sizes in matrices.items():
                found += self._matrix(self._address(f"{at}.{name}.weight", *sizes), *sizes)
            found += [None] * 6
            for name in ("input_layernorm", "post_attention_layernorm"):
                found += [self._address(f"{at}.{name}.weight", C), None]
            for name in ("q_norm", "k_norm"):
                there = c.arch == "qwen3"
                found.append(self._address(f"{at}.self_attn.{name}.weight", c.head_dim) if there else None)
        return found

    def _gpt2(self) -> list[int | None]:
        c, C, inner = self.config, self.config.n_embd, self.config.n_inner
        embed = self._address("transformer.wte.weight", c.vocab_size, C)
        found = [
            embed,
            self._address("transformer.wpe.weight", c.block_size, C),
            self._address("transformer.ln_f.weight", C),
            self._address("transformer.ln_f.bias", C),
            *self._head(embed),
        ]
        for layer in range(c.n_layer):
            at = f"transformer.h.{layer}"
            qkv, bias = self._turned(f"{at}.attn.c_attn", C, 3 * C)
            products = [(qkv + i * C * C * _FLOAT, bias + i * C * _FLOAT, C, C) for i in range(3)]
            for name, inputs, outputs in (("attn.c_proj", C, C), ("mlp.c_fc", C, inner), ("mlp.c_proj", inner, C)):
                products.append((*self._turned(f"{at}.{name}", inputs, outputs), outputs, inputs))
            matrices = [self._matrix(address, *sizes) for address, _, *sizes in products]
            matrices.insert(4, (None, None, None))  # there is no gate
            found += [place for matrix in matrices for place in matrix]
            found += [bias for _, bias, _, _ in products]
            found += [self._address(f"{at}.{n}.{kind}", C) for n in ("ln_1", "ln_2") for kind in ("weight", "bias")]
            found += [None, None]
        return found

    def _turned(self, name: str, inputs: int, outputs: int) -> tuple[int, int]:
        """Weight (out, in) and bias of a product that is stored (in, out)."""
        stored = self._address(f"{name}.weight", inputs, outputs)
        turned = (ctypes.c_float * (inputs * outputs))()
        self._kept.append(turned)
        self._library.gk_transpose(stored, ctypes.addressof(turned), inputs, outputs)
        return ctypes.addressof(turned), self._address(f"{name}.bias", outputs)
