"""GGUF files of text models: for llama.cpp to run, and for others to open.

`write_gguf` is the export, with the tokenizer as llama.cpp builds it. `gguf_view` is
what genkit's own engine reads, made once: the same tensors under a vocabulary of
bytes (see `bytegrammar`). genkit tokenizes itself, and llama.cpp holds a token back as long as its
text ends inside a character; tokens marked as control tokens have no text, so each
one is reported at once, while a grammar still sees their bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkit import cache
from genkit.errors import InputError
from genkit.files import read_json
from genkit.library import CONFIG, MAX_TOKENIZER, TOKENIZER, weight_files
from genkit.text.config import GPTConfig
from genkit.text.gguf.vocabulary import Unsupported, Vocabulary, byte_vocabulary, tokenizer_vocabulary

if TYPE_CHECKING:
    import gguf
    import numpy as np

FORMAT = 2  # of the views; a change makes all anew
PRECISIONS = {"fp32": "F32", "fp16": "F16", "int8": "Q8_0", "int4": "Q4_0"}

# transformers -> GGUF; a name inside a block follows "blk.{i}."
_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm",
    "ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip
_BLOCK = re.compile(r"(?:model\.layers|transformer\.h)\.(\d+)\.(.+)")
_BUFFERS = re.compile(r"\.attn\.(bias|masked_bias)$|rotary_emb\.inv_freq$")  # older releases stored them
_ROW = 32  # elements in a block of Q8_0 and of Q4_0
_OUTER = ("token_embd.weight", "output.weight")  # in 4 bits they would cost more than they save


def gguf_view(folder: Path, precision: str) -> Path:
    """The GGUF of the model in `folder` that genkit's engine reads, from the cache or made now.

    Args:
        precision: a key of `PRECISIONS`.

    Raises:
        InputError: missing or damaged files; Unsupported for a model or tokenizer that GGUF cannot hold.
        OutputError: there is no place to write it.
    """
    import hashlib

    parts = [cache.content_hash(path) for path in (folder / CONFIG, folder / TOKENIZER, *weight_files(folder))]
    key = hashlib.sha256(repr((FORMAT, precision, parts)).encode()).hexdigest()[:32]
    return cache.made_once(
        f"gguf/{key}.gguf", lambda path: _write(folder, path, precision, byte_vocabulary(*_tokenizer(folder)))
    )


def write_gguf(folder: Path, path: Path, precision: str) -> None:
    """Write the model in `folder` as a GGUF that any llama.cpp opens, tokenizer included.

    Raises:
        InputError: as `gguf_view`; Unsupported also for a tokenizer that llama.cpp would read differently.
        OSError: `path` cannot be written.
    """
    from genkit.text.tokenizer import Tokenizer

    stored, config = _tokenizer(folder)
    begins = Tokenizer.load(folder).opening == [config.bos_id]
    _write(folder, path, precision, tokenizer_vocabulary(stored, config), begins=begins)


def _tokenizer(folder: Path) -> tuple[dict[str, Any], GPTConfig]:
    return read_json(folder / TOKENIZER, limit=MAX_TOKENIZER), GPTConfig.from_hf(read_json(folder / CONFIG))


def _write(folder: Path, path: Path, precision: str, vocabulary: Vocabulary, *, begins: bool = False) -> None:
    """`begins`: a text is read behind a beginning-of-text token."""
    import gguf

    config = GPTConfig.from_hf(read_json(folder / CONFIG))
    if config.eos_id is None:
        raise Unsupported(f"{folder}: GGUF holds no model without an end-of-text token")
    writer = gguf.GGUFWriter(path, config.arch)
    writer.add_file_type(
        {
            "fp32": gguf.LlamaFileType.ALL_F32,
            "fp16": gguf.LlamaFileType.MOSTLY_F16,
            "int8": gguf.LlamaFileType.MOSTLY_Q8_0,
            "int4": gguf.LlamaFileType.MOSTLY_Q4_0,
        }[precision]
    )
    _add_shape(writer, config)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_bos_token_id(config.eos_id if config.bos_id is None else config.bos_id)
    writer.add_eos_token_id(config.eos_id)
    writer.add_add_bos_token(begins)
    writer.add_token_list(vocabulary.texts)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges or ["\u0100 \u0100"])  # an empty list is not written
    for name, array in _tensors(folder, config):
        data, kind = _encode(name, array, precision)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: gguf.GGUFWriter, config: GPTConfig) -> None:
    writer.add_context_length(config.block_size)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.n_inner)
    writer.add_head_count(config.n_head)
    writer.add_vocab_size(config.vocab_size)
    if config.arch == "gpt2":
        writer.add_layer_norm_eps(config.norm_eps)
        return
    writer.add_head_count_kv(config.n_kv_head)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)


def _tensors(folder: Path, config: GPTConfig) -> Iterator[tuple[str, np.ndarray]]:
    """GGUF name and fp32 values of every tensor, checked against the shape that `config` asks for."""
    import numpy as np

    from genkit.text.packed import open_weights

    expected = _shapes(config)
    found = {}
    for theirs, weight in open_weights(folder).items():
        name, shape = _gguf_name(theirs), weight.shape
        if _BUFFERS.search(theirs) or (name == "output.weight" and config.tie_embeddings):
            continue
        if _is_conv1d(name, shape, config):
            shape = shape[::-1]
        if expected.get(name) != shape:
            raise InputError(
                f"{weight.file.path}: {theirs} is {list(shape)}, not {list(expected.get(name, []))}",
                "config.json and model.safetensors must come from the same model",
            )
        found[name] = weight
    if missing := [name for name in expected if name not in found]:
        raise InputError(f"{folder}: the weights lack {', '.join(missing[:3])}", "use the files of one model")
    for name, weight in found.items():
        array: np.ndarray = weight.floats()
        if _is_conv1d(name, array.shape, config):
            array = array.T
        if config.arch == "llama" and name.endswith(("attn_q.weight", "attn_k.weight")):
            array = _interleave(array, config.head_dim)
        yield name, np.ascontiguousarray(array)


def _is_conv1d(name: str, shape: tuple[int, ...], config: GPTConfig) -> bool:
    """GPT-2's layers are stored as (in, out)."""
    return config.arch == "gpt2" and len(shape) == 2 and name.startswith("blk.")


def _shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """GGUF name -> shape, rows first."""
    C, inner, V = config.n_embd, config.n_inner, config.vocab_size
    q, kv = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (V, C), "output_norm.weight": (C,)}
    if not config.tie_embeddings:
        shapes["output.weight"] = (V, C)
    if config.arch == "gpt2":
        shapes |= {"position_embd.weight": (config.block_size, C), "output_norm.bias": (C,)}
        block: dict[str, tuple[int, ...]] = {
            "attn_norm.weight": (C,), "attn_norm.bias": (C,), "ffn_norm.weight": (C,), "ffn_norm.bias": (C,),
            "attn_qkv.weight": (3 * C, C), "attn_qkv.bias": (3 * C,),
            "attn_output.weight": (C, C), "attn_output.bias": (C,),
            "ffn_up.weight": (inner, C), "ffn_up.bias": (inner,),
            "ffn_down.weight": (C, inner), "ffn_down.bias": (C,),
        }  # fmt: skip
    else:
        block = {
            "attn_norm.weight": (C,), "ffn_norm.weight": (C,),
            "attn_q.weight": (q, C), "attn_k.weight": (kv, C), "attn_v.weight": (kv, C), "attn_output.weight": (C, q),
            "ffn_gate.weight": (inner, C), "ffn_up.weight": (inner, C), "ffn_down.weight": (C, inner),
        }  # fmt: skip
    if config.arch == "qwen3":
        block |= {"attn_q_norm.weight": (config.head_dim,), "attn_k_norm.weight": (config.head_dim,)}
    return shapes | {f"blk.{i}.{name}": shape for i in range(config.n_layer) for name, shape in block.items()}


def _gguf_name(theirs: str) -> str:
    module, _, kind = theirs.rpartition(".")
    if match := _BLOCK.fullmatch(module if module.startswith(("model.", "transformer.")) else f"transformer.{module}"):
        return f"blk.{match[1]}.{_NAMES.get(match[2], match[2])}.{kind}"
    return f"{_NAMES.get(module) or _NAMES.get('transformer.' + module, module)}.{kind}"


def _interleave(array: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of each head from halves to pairs: llama.cpp rotates (2i, 2i + 1), `transformers` (i, i + hd / 2)."""
    heads = array.reshape(-1, 2, head_dim // 2, array.shape[1])  # (heads, 2, hd / 2, C)
    return heads.swapaxes(1, 2).reshape(array.shape)


def _encode(name: str, array: np.ndarray, precision: str) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
    """A tensor's bytes: matrices in `precision`, all else in fp32, as llama.cpp's own converter does."""
    import gguf
    import numpy as np

    if precision == "fp32" or array.ndim == 1 or name == "position_embd.weight":
        return array, gguf.GGMLQuantizationType.F32
    if precision in ("int8", "int4") and array.shape[1] % _ROW == 0:
        precision = "int8" if name in _OUTER else precision
        kind = gguf.GGMLQuantizationType[PRECISIONS[precision]]
        return gguf.quants.quantize(array, kind), kind
    if np.abs(array).max() > np.finfo(np.float16).max:
        return array, gguf.GGMLQuantizationType.F32
    return array.astype(np.float16), gguf.GGMLQuantizationType.F16
