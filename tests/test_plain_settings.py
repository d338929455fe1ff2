"""What a config has to be is said before anything is begun."""

import pytest

from ldm.experiment.check import check_batch, checked
from ldm.resolve import ConfigError
from tests.runs import tiny


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    made = tiny(tmp_path_factory.mktemp("settings"))
    made["autoencoder"].pop("checkpoint", None)
    return made


def test_a_config_that_fits_comes_back_with_its_words(config):
    assert checked(config)["seed"] == 0 and checked(config | {"rank_timeout": 5})["rank_timeout"] == 5.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "../out"}, "name: '../out' is to be a directory below runs"),
        ({"name": "a/.hidden"}, "below runs"),
        ({"name": "/etc"}, "below runs"),
        ({"seed": -1}, "seed: .*greater than or equal to 0; got -1"),
        ({"sede": 1}, "sede: no such setting; did you mean seed?"),
        ({"second": {"clip": 0.0}}, "second.clip: .*greater than 0; got 0.0"),
        ({"second": {"optimizer": {"lr": -1.0}}}, "second.optimizer: Invalid learning rate: -1.0"),
        ({"first": {"optimizer": {"betas": [2.0, 0.9]}}}, "first.optimizer: Invalid beta"),
        ({"prior": {"stepps": 3}}, "prior.stepps: Diffusion has no such argument; did you mean steps?"),
    ],
)
def test_what_does_not_fit_is_named(config, change, said):
    made = dict(config)
    for key, value in change.items():
        made[key] = _merged(config[key], value) if isinstance(value, dict) else value
    with pytest.raises(ConfigError, match=said):
        checked(made)


def _merged(old, new):
    return old | {key: _merged(old[key], value) if isinstance(value, dict) else value for key, value in new.items()}


def test_a_global_batch_is_shared_by_ranks_and_parts(config):
    parts = config | {"second": config["second"] | {"accumulate": 2}}
    check_batch(config, 4)
    check_batch(parts, 2)
    for made, world in ((config, 3), (parts, 4), (config | {"first": config["first"] | {"accumulate": 3}}, 1)):
        with pytest.raises(ValueError, match="batch_size 4 is the global batch and cannot be shared"):
            check_batch(made, world)
