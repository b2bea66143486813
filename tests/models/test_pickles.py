"""Pickles are read on an explicit word, in a process of their own, with placeholders for absent classes."""

from __future__ import annotations

import os
import struct
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from electret import Calculator
from electret.errors import InputError
from electret.models import load, read_header
from electret.models.header import is_pickle
from electret.models.pickles import _described, placeholder_packages, read_pickle

PACKAGE = "absent_package_of_a_test"


def described(thing: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Description of a module with one absent child, for the process that reads it."""
    names = [f"{type(module).__module__}.{type(module).__name__}" for module in thing.modules()]
    return {"classes": names, "width": thing[1].width, "process": os.getpid()}, thing.state_dict()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Modules whose classes are nowhere, or have moved, saved whole."""
    path = tmp_path_factory.mktemp("pickles") / "thing.model"
    with placeholder_packages([PACKAGE]):
        import absent_package_of_a_test.blocks as blocks  # type: ignore[import-not-found]

        child = blocks.Readout(3, hidden=2)
        child.width, child.weight = 1.5, torch.nn.Parameter(torch.arange(3.0))
        child.register_buffer("empty", torch.zeros(0))
        former = type("Former", (torch.nn.Linear,), {"__module__": "torch.nn"})
        torch.nn.Former = former  # type: ignore[attr-defined]
        torch.save(torch.nn.Sequential(former(2, 1), child), path)
        del torch.nn.Former  # type: ignore[attr-defined]
    return path


def test_plain_data_of_a_pickle_with_absent_classes(file: Path) -> None:
    description, tensors = read_pickle(
        file,
        f"{__name__}:described",
        trust=True,
        placeholders=[PACKAGE],
        moved={"torch.nn:Former": "torch.nn:Linear"},
    )
    assert description["classes"][1:] == ["torch.nn.modules.linear.Linear", f"{PACKAGE}.blocks.Readout"]
    assert description["width"] == 1.5
    assert description["process"] != os.getpid()
    assert torch.equal(tensors["1.weight"], torch.arange(3.0))
    assert tensors["1.empty"].shape == (0,)
    assert PACKAGE not in sys.modules
    assert not hasattr(torch.nn, "Former")


def test_nothing_is_read_without_a_word_of_trust(file: Path, tmp_path: Path) -> None:
    class Planted:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    torch.save(Planted(), tmp_path / "planted.model")
    torch.save(Planted(), tmp_path / "older.model", _use_new_zipfile_serialization=False)
    for path in (tmp_path / "planted.model", tmp_path / "older.model"):
        for read in (load, read_header, Calculator, partial(read_pickle, describe="a:b", trust=False)):
            with pytest.raises(InputError, match=rf"{path.name} is a pickle.*trust: true in YAML, or"):
                read(path)
    assert not (tmp_path / "ran").exists()
    # the length of this header begins as a pickle
    (tmp_path / "tensors").write_bytes(struct.pack("<Q", 0x280) + b"{" + 639 * b" ")
    assert not is_pickle(tmp_path / "tensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no pickle", "not a pickle of PyTorch"),
        (None, f"a class that the file names is not available.*{PACKAGE}"),
    ],
)
def test_what_cannot_be_read_is_named(
    file: Path, tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        file = tmp_path / "a.model"
        file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        _described(str(file), f"{__name__}:described", (), {"torch.nn:Former": "torch.nn:Linear"})
    torch.nn.__dict__.pop("Former", None)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.model: no such file"):
        read_pickle(tmp_path / "a.model", f"{__name__}:described", trust=True)


def test_a_failure_of_the_process_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.model").touch()
    (tmp_path / "sitecustomize.py").write_text("import os\nos._exit(7)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="ended with status 7"):
        read_pickle(tmp_path / "a.model", f"{__name__}:described", trust=True)


def test_packages_are_back_after_the_context() -> None:
    import yaml

    with placeholder_packages(["yaml"]):
        import yaml as other

        assert issubclass(other.Anything, torch.nn.Module)
    assert sys.modules["yaml"] is yaml
