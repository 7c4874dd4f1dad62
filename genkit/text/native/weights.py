"""A model folder's weights where the native decoder reads them: mapped, not loaded."""

from __future__ import annotations

import ctypes
import math
import mmap
from pathlib import Path
from typing import Any

from genkit.errors import InputError
from genkit.files import input_errors, open_regular, read_header
from genkit.library import weight_files
from genkit.text.config import GPTConfig
from genkit.text.native.library import Shape, library

_ARCHES = ("gpt2", "llama", "qwen3")  # by their numbers in decode.c
_FLOAT = 4  # bytes

# the tensors of a block in the order of `Block` in decode.c; what an arch does not have is None
_BLOCK = (
    "input_layernorm.weight", None,
    "self_attn.q_proj.weight", None, "self_attn.k_proj.weight", None, "self_attn.v_proj.weight", None,
    "self_attn.o_proj.weight", None, "self_attn.q_norm.weight", "self_attn.k_norm.weight",
    "post_attention_layernorm.weight", None,
    "mlp.gate_proj.weight", "mlp.up_proj.weight", None, "mlp.down_proj.weight", None,
)  # fmt: skip


class Weights:
    """The tensors of a folder with `config`'s shape; the memory is the files'.

    Attributes:
        shape: the sizes.
        tensors: their addresses, in the order of `gk_open`.

    Raises:
        InputError: a tensor is missing, or has another shape or type.
    """

    def __init__(self, folder: Path, config: GPTConfig) -> None:
        self.folder, self.config = folder, config
        self._kept: list[Any] = []  # memory that the addresses point into
        self._found: dict[str, tuple[int, list[int]]] = {}  # address and shape
        for path in weight_files(folder):
            self._map(path)
        sizes = (config.n_layer, config.n_head, config.n_kv_head, config.n_embd, config.head_dim, config.n_inner)
        numbers = (_ARCHES.index(config.arch), config.vocab_size, config.block_size, *sizes)
        self.shape = Shape(*numbers, config.norm_eps, config.rope_theta)
        self.tensors = self._gpt2() if config.arch == "gpt2" else self._llama()

    def _map(self, path: Path) -> None:
        with input_errors(path), open_regular(path) as file:
            header, begin = read_header(file, path)
            # private pages: never written, and ctypes names addresses of writable memory alone
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._kept.append(mapped)
        base = ctypes.addressof(ctypes.c_char.from_buffer(mapped)) + begin
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if entry["dtype"] != "F32":
                problem = f"{path}: {name} is {entry['dtype']}, and --engine native reads F32"
                raise InputError(problem, "use --engine torch")
            address = base + entry["data_offsets"][0]
            if address % _FLOAT:
                raise InputError(f"{path}: {name} begins inside a number", "save the model anew")
            self._found[name] = address, entry["shape"]

    def _address(self, name: str, *shape: int) -> int:
        if name not in self._found:
            raise InputError(f"{self.folder}: there is no {name}", "use another copy of the model")
        address, found = self._found[name]
        if tuple(found) != shape:
            problem = f"{self.folder}: {name} has the shape {found}, not {[*shape]}"
            raise InputError(problem, "use another copy of the model")
        return address

    def _llama(self) -> list[int | None]:
        c = self.config
        q, kv, C, D = c.n_head * c.head_dim, c.n_kv_head * c.head_dim, c.n_embd, c.head_dim
        shapes = {
            "self_attn.q_proj.weight": (q, C), "self_attn.k_proj.weight": (kv, C), "self_attn.v_proj.weight": (kv, C),
            "self_attn.o_proj.weight": (C, q), "self_attn.q_norm.weight": (D,), "self_attn.k_norm.weight": (D,),
            "mlp.gate_proj.weight": (c.n_inner, C), "mlp.up_proj.weight": (c.n_inner, C),
            "mlp.down_proj.weight": (C, c.n_inner),
        }  # fmt: skip
        embed = self._address("model.embed_tokens.weight", c.vocab_size, C)
        head = embed if c.tie_embeddings else self._address("lm_head.weight", c.vocab_size, C)
        found: list[int | None] = [embed, None, self._address("model.norm.weight", C), None, head]
        for layer in range(c.n_layer):
            for name in _BLOCK:
                if name is None or (c.arch == "llama" and name.endswith(("q_norm.weight", "k_norm.weight"))):
                    found.append(None)
                else:
                    found.append(self._address(f"model.layers.{layer}.{name}", *shapes.get(name, (C,))))
        return found

    def _gpt2(self) -> list[int | None]:
        c, C = self.config, self.config.n_embd
        embed = self._address("transformer.wte.weight", c.vocab_size, C)
        found: list[int | None] = [
            embed,
            self._address("transformer.wpe.weight", c.block_size, C),
            self._address("transformer.ln_f.weight", C),
            self._address("transformer.ln_f.bias", C),
            embed if c.tie_embeddings else self._address("lm_head.weight", c.vocab_size, C),
        ]
        for layer in range(c.n_layer):
            at = f"transformer.h.{layer}"
            norms = {n: [self._address(f"{at}.{n}.{kind}", C) for kind in ("weight", "bias")] for n in ("ln_1", "ln_2")}
            qkv, bias = self._linear(f"{at}.attn.c_attn", C, 3 * C)
            parts = [(qkv + i * C * C * _FLOAT, bias + i * C * _FLOAT) for i in range(3)]
            attention = [address for part in (*parts, self._linear(f"{at}.attn.c_proj", C, C)) for address in part]
            up, down = self._linear(f"{at}.mlp.c_fc", C, c.n_inner), self._linear(f"{at}.mlp.c_proj", c.n_inner, C)
            found += [*norms["ln_1"], *attention, None, None, *norms["ln_2"], None, *up, *down]
        return found

    def _linear(self, name: str, inputs: int, outputs: int) -> tuple[int, int]:
        """Weight (out, in) and bias of a product that is stored (in, out)."""
        stored = self._address(f"{name}.weight", inputs, outputs)
        turned = (ctypes.c_float * math.prod((inputs, outputs)))()
        self._kept.append(turned)
        library().gk_transpose(stored, ctypes.addressof(turned), inputs, outputs)
        return ctypes.addressof(turned), self._address(f"{name}.bias", outputs)
