"""A file from a stranger runs nothing, whichever door it comes through: every loader is handed a pickle that would leave a
mark."""

import http.server
import json
import pickle
import shutil
import threading
from pathlib import Path

import pytest
import torch
import yaml

from ldm.command.evaluate import measure_again
from ldm.data.hub import Hub
from ldm.experiment.experiment import Experiment
from ldm.interop.first_stage import pretrained
from ldm.model import LatentModel
from ldm.resolve import ConfigError
from ldm.run import record
from ldm.run.checkpoint import Checkpoints, DamagedCheckpoint, read
from ldm.run.signals import FINISHED
from ldm.run.snapshots import Snapshots
from ldm.tensors import read_tensors
from tests.runs import compose, tiny


class Evil:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stranger")
    assert Experiment(tiny(folder)).run() == FINISHED
    return folder / "runs" / "run"


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def marker(tmp_path):
    place = tmp_path / "marker"
    yield place
    assert not place.exists(), "it was executed"


def evil(file: Path, marker: Path, kind: str = "torch") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if kind == "torch":
        torch.save(Evil(marker), file)
    else:
        file.write_bytes(pickle.dumps(Evil(marker)))
    return file


def test_the_mark_would_be_left(tmp_path):
    """The test bites: whoever unpickles it touches the file."""
    pickle.loads(evil(tmp_path / "x", tmp_path / "touched", "pickle").read_bytes())
    assert (tmp_path / "touched").exists()


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_weights(run, marker, kind):
    evil(run / "model" / "model.safetensors", marker, kind)
    with pytest.raises(ValueError, match=r"model.safetensors"):
        LatentModel.load(run)


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_training_states(run, marker, kind):
    for file in run.glob("checkpoints/second/*/tensors.safetensors"):
        evil(file, marker, kind)
    with pytest.raises(DamagedCheckpoint, match="tensors.safetensors|second"):
        Checkpoints(run / "checkpoints" / "second").load()


def test_snapshots(run, marker):
    for file in (run / "snapshots" / "second").iterdir():
        evil(file, marker)
    with pytest.raises(ValueError, match="safetensors"):
        Snapshots(run / "snapshots" / "second").rebuild(0.08)


def test_records_and_configs(run, marker):
    (run / "records.jsonl").write_bytes(pickle.dumps(Evil(marker)))
    with pytest.warns(record.TornLineWarning):
        assert record.read(run / "records.jsonl") == []
    (run / "model" / "config.json").write_bytes(pickle.dumps(Evil(marker)))
    with pytest.raises(ValueError, match=r"config\.json is damaged.*decode"):
        LatentModel.load(run)


def test_a_yaml_of_tags(run, marker):
    (run / "config.yaml").write_text(
        f"!!python/object/apply:pathlib.Path.touch [!!python/object:pathlib.Path [{marker}]]"
    )
    with pytest.raises(yaml.YAMLError, match="python/object/apply"):
        measure_again(str(run), 2, None, None, 0, "average", None, "cpu")


@pytest.mark.parametrize("part", ["data", "metric", "evaluation"])
def test_a_run_whose_config_builds_something_else(run, marker, part):
    config = yaml.safe_load((run / "config.yaml").read_text())
    node = {"_target_": "pathlib.Path.touch", "self": str(marker)}
    config[part] = {"x": node} if part == "metric" else node
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match="not allowed"):
        measure_again(str(run), 2, None, None, 0, "average", None, "cpu")


def test_a_words_target_on_the_command_line(tmp_path, marker):
    words = [f"++prior.backbone={{_target_:os.system,command:'touch {marker}'}}", "trainer=cpu"]
    with pytest.raises(ConfigError, match="os.system is not allowed"):
        Experiment(compose(*words))


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors"])
def test_a_diffusers_autoencoder(shared, tmp_path, marker, name):
    folder = shutil.copytree(shared / "interop" / "tiny_vae_dir", tmp_path / "vae")
    for file in folder.glob("*.safetensors"):
        file.unlink()
    evil(folder / name, marker)
    with pytest.raises((ValueError, OSError)) as caught:
        config = tiny(tmp_path, f"autoencoder.checkpoint={folder}", "prior=normal")
        Experiment(config).run()
    assert str(folder) in str(caught.value) or name in str(caught.value)


def test_a_checkpoint_by_http(tmp_path, marker):
    """Lightning unpickles what it fetches from an address (faults.md, L16); here an address is no checkpoint."""
    evil(tmp_path / "web" / "model.ckpt", marker)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path / "web"))

        def log_message(self, *_):
            asked.append(self.path)

    asked: list[str] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/model.ckpt"
    with pytest.raises((ValueError, OSError), match="127.0.0.1"):
        pretrained(address).config((3, 32, 32))
    server.shutdown()
    assert not asked, "nothing is fetched"


def test_a_perceptual_networks_weights(tmp_path, marker):
    with pytest.raises(ValueError, match="vgg.pth"):
        read_tensors(evil(tmp_path / "vgg.pth", marker))


def test_a_data_set_with_a_script(tmp_path, marker):
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "evil.py").write_text(f"import pathlib; pathlib.Path({str(marker)!r}).touch()")
    with pytest.raises((ValueError, OSError, RuntimeError), match="evil"):
        Hub(root=folder, split="train")


def test_a_state_dict_of_json(run, marker):
    """A manifest that names no tensors but objects is data all the same."""
    manifest = next(run.glob("checkpoints/second/*/manifest.json"))
    state = json.loads(manifest.read_text())
    state["state"] = {"__dict__": [["updates", {"_target_": "os.system", "command": f"touch {marker}"}]]}
    manifest.write_text(json.dumps(state))
    with pytest.raises(DamagedCheckpoint, match="checksum"):
        read(manifest.parent)
