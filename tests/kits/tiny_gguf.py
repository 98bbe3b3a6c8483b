"""A GGUF file of 115 KB: a language model with random weights, which says nothing of sense and keeps to a grammar."""

from __future__ import annotations

import random
import struct
from math import prod
from pathlib import Path

_WIDTH, _INNER = 32, 64


def write_gguf(path: Path, *, seed: int = 1) -> Path:
    """Write the model to PATH and return it. Another SEED makes another model of the same size.

    The format: github.com/ggml-org/ggml, docs/gguf.md.
    """
    facts = _facts()
    rng = random.Random(seed)
    infos, data = b"", b""
    for name, shape in _shapes():
        infos += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        numbers = prod(shape)
        data += struct.pack(f"<{numbers}f", *(rng.gauss(0, 0.1) for _ in range(numbers)))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(_shapes()), len(facts)) + b"".join(facts) + infos
    path.write_bytes(head + bytes(-len(head) % 32) + data)
    return path


def _shapes() -> list[tuple[str, tuple[int, ...]]]:
    wide = (_WIDTH, _WIDTH)
    return [
        ("token_embd.weight", (_WIDTH, 257)),
        ("output_norm.weight", (_WIDTH,)),
        ("output.weight", (_WIDTH, 257)),
        ("blk.0.attn_norm.weight", (_WIDTH,)),
        ("blk.0.ffn_norm.weight", (_WIDTH,)),
        *((f"blk.0.attn_{name}.weight", wide) for name in ("q", "k", "v", "output")),
        ("blk.0.ffn_gate.weight", (_WIDTH, _INNER)),
        ("blk.0.ffn_up.weight", (_WIDTH, _INNER)),
        ("blk.0.ffn_down.weight", (_INNER, _WIDTH)),
    ]


def _facts() -> list[bytes]:
    numbers = {
        "llama.context_length": 65536,
        "llama.embedding_length": _WIDTH,
        "llama.block_count": 1,
        "llama.feed_forward_length": _INNER,
        "llama.attention.head_count": 2,
        "llama.rope.dimension_count": 16,
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 256,
    }
    words = {"general.architecture": "llama", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2"}
    # A token for each byte, written as GPT-2 does, and the end.
    shown = {byte: chr(byte) for byte in (*range(33, 127), *range(161, 173), *range(174, 256))}
    shown |= {byte: chr(256 + number) for number, byte in enumerate(byte for byte in range(256) if byte not in shown)}
    tokens = [*(shown[byte] for byte in range(256)), "<|end|>"]
    return [
        *(_text(name) + struct.pack("<I", 8) + _text(word) for name, word in words.items()),
        *(_text(name) + struct.pack("<II", 4, number) for name, number in numbers.items()),
        _text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", 6, 1e-5),
        _text("tokenizer.ggml.tokens") + _list(8, [_text(token) for token in tokens]),
        _text("tokenizer.ggml.token_type") + _list(5, [struct.pack("<i", kind) for kind in (*[1] * 256, 3)]),
        _text("tokenizer.ggml.merges") + _list(8, [_text("a b")]),
    ]


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _list(kind: int, items: list[bytes]) -> bytes:
    return struct.pack("<IIQ", 9, kind, len(items)) + b"".join(items)
