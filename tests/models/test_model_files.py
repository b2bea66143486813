"""Model files: what comes back, and what each kind of damage is called."""

import json
import pickletools

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from electret import InputError
from electret.graph import Graph
from electret.models import ModelFileError, build, load, read_header, save
from electret.models.files import FORMAT_VERSION
from model_cases import STATISTICS, model_config, molecule, small_model


@pytest.fixture(scope="module")
def model():
    return small_model("local_charges")


@pytest.fixture
def path(model, tmp_path):
    file = tmp_path / "model.electret"
    save(model, file, {"data": "water", "errors": {"energy": 1.5}})
    return file


def rewrite(path, change_header=None, change_tensors=None):
    """Writes the file again with another header or other tensors, whatever that breaks."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["electret"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if change_header:
        change_header(header)
    if change_tensors:
        change_tensors(tensors)
    save_file(tensors, path, {"electret": json.dumps(header)})


def test_header_tells_what_the_model_is(path):
    header = read_header(path)
    assert header["format_version"] == FORMAT_VERSION
    assert header["config"]["family"] == "local_charges"
    assert header["statistics"]["elements"] == [1, 8, 11]
    assert header["metadata"] == {"data": "water", "errors": {"energy": 1.5}}
    assert set(header["versions"]) == {"electret", "torch", "mace-torch", "e3nn"}


def test_configuration_and_statistics_come_back(model, path):
    loaded = load(path)
    assert loaded.config == model.config
    assert loaded.statistics == model.statistics
    assert loaded.dtype == torch.float64


def test_narrowed_and_widened_models_agree(model, path, tmp_path):
    narrow = load(path, dtype=torch.float32)
    assert {value.dtype for value in narrow.parameters()} == {torch.float32}
    save(narrow, tmp_path / "narrow.electret")
    wide = load(tmp_path / "narrow.electret", dtype=torch.float64)
    energies = []
    for variant in (model, narrow, wide):
        graph = Graph.from_atoms(molecule(), variant.cutoff, variant.dtype)
        energies.append(float(variant(graph)["energy"]))
    assert energies[1] == pytest.approx(energies[0], abs=1e-4)
    assert energies[2] == pytest.approx(energies[1], abs=1e-4)
    with pytest.raises(InputError, match="float16"):
        load(path, dtype=torch.float16)


def test_file_holds_no_pickle(path):
    content = path.read_bytes()
    assert not content.startswith((b"PK", b"\x80"))
    with pytest.raises((ValueError, IndexError)):
        list(pickletools.genops(content))


def test_saving_again_replaces_the_file_whole(model, path, tmp_path):
    with pytest.raises(InputError, match="JSON"):
        save(model, path, {"bad": object()})
    with pytest.raises(InputError, match="JSON"):
        save(model, path, {"bad": float("nan")})
    assert read_header(path)["metadata"]["data"] == "water"
    save(model, path, {"data": "ice"})
    assert read_header(path)["metadata"]["data"] == "ice"
    assert [file.name for file in tmp_path.iterdir()] == ["model.electret"]


def test_equal_models_give_equal_files(model, tmp_path):
    for number in range(6):
        save(model, tmp_path / f"{number}.electret", {"data": "water"})
    assert len({file.read_bytes() for file in tmp_path.iterdir()}) == 1


def test_a_changed_name_in_the_header_is_noticed(path):
    content = path.read_bytes()
    path.write_bytes(content.replace(b"electret_checksum", b"electret_checksun", 1))
    with pytest.raises(ModelFileError, match=r"unknown entries \['electret_checksun'\]"):
        load(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ModelFileError, match="no such file"):
        load(tmp_path / "absent.electret")


@pytest.mark.parametrize("keep", [0, 5, 0.3, 0.99])
def test_truncated_file_is_named(path, keep):
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(ModelFileError, match="not a complete"):
        load(path)


def test_other_files_are_named(path, tmp_path):
    path.write_bytes(b"energy 1.0\n" * 100)
    with pytest.raises(ModelFileError, match="not a complete"):
        load(path)
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match="without electret's header"):
        load(tmp_path / "other.safetensors")


def test_flipped_byte_is_noticed(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ModelFileError, match="checksum"):
        load(path)


def test_newer_format_is_named(path):
    rewrite(path, change_header=lambda header: header.update(format_version=FORMAT_VERSION + 1))
    with pytest.raises(ModelFileError, match="upgrade electret"):
        load(path)


def test_densities_of_another_meaning_are_refused(path):
    def older(header):
        header.update(format_version=1)
        header["config"]["family"] = "qeq"

    rewrite(path, change_header=older)
    with pytest.raises(ModelFileError, match="train the model again"):
        load(path)


def test_incomplete_header_is_named(path):
    rewrite(path, change_header=lambda header: header.pop("statistics"))
    with pytest.raises(ModelFileError, match="lacks \\['statistics'\\]"):
        load(path)


def test_missing_tensor_is_named(path):
    from electret.support.tensor_files import checksum

    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = next(name for name in tensors if name.startswith("readout"))
    del tensors[name]
    rewrite(
        path,
        change_header=lambda header: header.update(checksum=checksum(tensors)),
        change_tensors=lambda stored: stored.pop(name),
    )
    with pytest.raises(ModelFileError, match=f"1 missing .*{name}.*install these versions"):
        load(path)


def test_misshapen_tensor_is_named(path, model):
    other = build(model_config("local_charges", backbone={"MLP_irreps": "4x0e"}), STATISTICS)
    save(other, path)
    rewrite(path, change_header=lambda header: header.update(config=model.config.model_dump(mode="json")))
    with pytest.raises(ModelFileError, match="has shape"):
        load(path)


def test_statistics_that_contradict_the_tensors_are_not_written(tmp_path):
    changed = {**STATISTICS.e0s, 8: -431.0}
    for update, name in (({"e0s": changed}, "e0s"), ({"scale": 2.0}, "scale"), ({"mean": 0.2}, "shift")):
        model = build(model_config("local_charges"), STATISTICS)
        model.statistics = STATISTICS.model_copy(update=update)
        with pytest.raises(InputError, match=f"{name} = .* contradicts its statistics"):
            save(model, tmp_path / "model.electret")
    assert list(tmp_path.iterdir()) == []


def test_saving_replaces_models_only(model, tmp_path):
    (tmp_path / "train.xyz").write_text("mine")
    with pytest.raises(InputError, match=r"train.xyz' exists already; it is no model file"):
        save(model, tmp_path / "train.xyz")
    assert (tmp_path / "train.xyz").read_text() == "mine"
    save(model, tmp_path / "model.bin")
    save(model, tmp_path / "model.bin")


def test_every_changed_digit_of_the_header_is_noticed(path):
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    start = content.index(b"format_version")
    digits = [place for place in range(start, 8 + length) if content[place : place + 1].isdigit()]
    assert len(digits) > 300
    for place in digits:
        changed = bytearray(content)
        changed[place] = ord("0") + (content[place] - ord("0") + 3) % 10
        path.write_bytes(bytes(changed))
        with pytest.raises(ModelFileError, match=r"checksum|not a complete|cannot be read"):
            load(path)


def test_a_file_from_before_the_checksum_of_the_header_is_read(model, path):
    rewrite(path)
    loaded = load(path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_pipes_and_folders_are_no_model_files(tmp_path):
    with pytest.raises(ModelFileError, match="not a regular file"):
        read_header(tmp_path)


def test_device_that_is_not_there_is_named(path):
    with pytest.raises(InputError, match="torch finds"):
        load(path, device="cuda:99")
    with pytest.raises(InputError, match="device = 'None'"):
        load(path, device=None)
