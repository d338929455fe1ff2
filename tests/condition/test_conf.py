from ldm.build import check
from tests.pieces import pieces


def test_every_config_fits_its_signature():
    import yaml

    from tests.pieces import CONF

    for file in sorted((CONF / "condition").glob("*.yaml")):
        check(yaml.safe_load(file.read_text(encoding="utf-8")), "condition")


def test_those_that_need_no_download_are_built():
    for name, make in pieces("condition").items():
        if name not in ("clip", "t5"):
            condition = make(classes=3) if name == "label" else make()  # a run reads them from its data
            condition.fit(["a caption"])
            assert condition.needs in ((), ("label",), ("caption",))
