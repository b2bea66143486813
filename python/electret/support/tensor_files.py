"""Bytes and checksums of safetensors files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import safetensors.torch
import torch

__all__ = ["checksum", "tensor_file"]


def tensor_file(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Content of a safetensors file whose header has one order of entries, so that equal tensors and metadata
    give equal bytes; safetensors itself writes metadata in any order."""
    content = safetensors.torch.save(dict(tensors), dict(metadata))
    start = 8 + int.from_bytes(content[:8], "little")
    entries = json.loads(content[8:start])
    header = json.dumps(entries, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[start:]


def checksum(tensors: Mapping[str, torch.Tensor], text: str = "") -> str:
    """SHA-256 over a text and the names, types, shapes and bytes of all tensors."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
