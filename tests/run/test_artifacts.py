"""What evaluations compute once of real images is found by the next, and two that ask at once make it once."""

import threading

import torch

from ldm.run.artifacts import Stored
from ldm.run.seen import GIVEN, networks_seen
from ldm.run.store import Store


def test_what_was_made_is_found_and_two_that_ask_at_once_make_it_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"x": torch.arange(3.0), "scalar": torch.tensor(2.0, dtype=torch.float64)}

    found = [None] * 4

    def ask(i):
        found[i] = Stored(Store(tmp_path)).kept("features", "key", {"split": "val", "weights": "w"}, make)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(made) == 1
    for each in found:
        assert torch.equal(each["x"], torch.arange(3.0)) and each["scalar"] == 2
    ask(0)
    Stored(Store(tmp_path)).kept("features", "other", {}, make)
    assert len(made) == 2, "another key is another artifact"


def test_a_store_that_cannot_be_written_keeps_nothing_and_the_numbers_come(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    own = Stored(Store(tmp_path / "file" / "store"))  # a folder cannot be there
    assert own.kept("features", "key", {}, lambda: {"x": torch.ones(1)})["x"] == 1
    assert "cannot be written; give store=DIR" in caplog.text


def history(**settings):
    return [{"after": 0, "settings": settings}]


def test_networks_that_losses_saw_are_found_in_all_that_a_model_was_made_from():
    lpips = {"_target_": "ldm.loss.feature_distance.LPIPS", "network": "alex"}
    first = history(loss={"_target_": "ldm.loss.first_stage.FirstStageLoss", "perceptual": lpips})
    first += history(loss={"_target_": "ldm.loss.first_stage.FirstStageLoss", "perceptual": None})
    maps = {"_target_": "ldm.alignment.maps.TorchvisionMaps", "architecture": "mobilenet_v2", "layers": ["x"]}
    second = history(alignment={"_target_": "ldm.alignment.alignment.Alignment", "network": maps})
    assert networks_seen({"first": first, "second": second}) == ["alexnet", "mobilenet_v2"]
    dino = {"_target_": "ldm.alignment.maps.DinoMaps", "source": "facebook/dinov2-base"}
    assert networks_seen({"second": history(alignment={"network": dino})}) == ["dinov2_base"]
    random = {"_target_": "ldm.alignment.maps.RandomMaps"}
    assert networks_seen({"second": history(alignment={"network": random})}) == networks_seen({}) == []
    assert networks_seen({"first": history(autoencoder={"checkpoint": "hash"})}) == [GIVEN]
    assert networks_seen({"first": history(loss={"_target_": "gone.Loss"})}) == ["gone.Loss"]


def test_the_network_that_chose_the_weights_is_among_those_seen():
    chosen = {
        "fd_classifier": "classifier",
        "recall_dinov2_base": "dinov2_base",
        "kid": "inception_2015",
        "psnr": "psnr",
    }
    for metric, network in chosen.items():
        assert networks_seen({"chosen_by": metric}) == [network]
