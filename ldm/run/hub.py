"""Models on the Hugging Face hub: a repository with what `LatentModel.load` reads and a card made from the run's records.

    config.json           the nodes that build the model, and what it was made from
    model.safetensors     the averaged weights
    records.jsonl         every number that was measured, with what it was measured by
    README.md             the card: what the model is, how it is loaded, a table of the numbers of these weights

Nothing is unpickled, neither here nor there, and a stranger's config can name only parts of a model (ldm.model).
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from ldm.files import write_text
from ldm.model import LatentModel
from ldm.run import record
from ldm.run.record import Record

_FILES = ["config.json", "*.safetensors", "records.jsonl", "README.md"]
_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def located(run: str | Path, revision: str | None = None) -> Path:
    """The directory of a run, or of the copy of a name on the hub, fetched where it is not there yet.

    FileNotFoundError where there is neither.
    """
    folder = Path(run).expanduser()
    if folder.exists():
        if revision is not None:
            raise ValueError(f"revision={revision} is of a name on the hub, and {run} is a directory here")
        return folder
    if not _NAME.fullmatch(str(run)):
        raise FileNotFoundError(f"{run}: there is no such run, and a name on the hub is USER/NAME")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(run), revision=revision, allow_patterns=_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        said = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(f"{run}: there is no such run here, and the hub does not give it: {said}") from error


def push(model: LatentModel, folder: Path | None, name: str, private: bool, message: str, token: str | None) -> str:
    """Put a model on the hub under `user/name`; its address."""
    from huggingface_hub import HfApi

    if not _NAME.fullmatch(name):
        raise ValueError(f"{name}: wanted a name on the hub, USER/NAME")
    api = HfApi(token=token)
    address = api.create_repo(name, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as here:
        write(model, folder, name, Path(here))
        api.upload_folder(repo_id=name, folder_path=here, commit_message=message)
    return str(address)


def write(model: LatentModel, folder: Path | None, name: str, to: Path) -> None:
    """Write what a repository of this name holds, as plain files."""
    model.save(to)
    places = [] if folder is None else [folder, folder.parent] if folder.name == "model" else [folder]
    file = next((place / "records.jsonl" for place in places if (place / "records.jsonl").is_file()), None)
    records = [] if file is None else record.current(record.read(file))
    if file is not None:
        write_text(to / "records.jsonl", file.read_text(encoding="utf-8"))
    write_text(to / "README.md", card(model, records, name))


def card(model: LatentModel, records: list[Record], name: str) -> str:
    """The model card: YAML that the hub reads, and a page."""
    from huggingface_hub import ModelCardData

    needs, prior = model.condition.needs, type(model.prior).__name__
    kind = "text-to-image" if "caption" in needs else "unconditional-image-generation"
    own = [each for each in records if each.model == model.weights_hash]
    data = ModelCardData(library_name="ldm", pipeline_tag=kind, tags=["ldm", "latent-generative-model", prior.lower()])
    channels, height, width = model.autoencoder.image_shape
    seen = model.made_from.get("images_seen")
    shape = " x ".join(map(str, model.prior.latents.batch(1)[1:]))
    lines = [
        f"---\n{data.to_yaml()}\n---\n",
        f"# {name.partition('/')[2]}\n",
        f"A latent generative model: a prior {prior} of {shape} {model.prior.reads}, of images of {width} x {height} pixels "
        f"with {channels} channel{'s' * (channels > 1)}, conditioned on {', '.join(needs) or 'nothing'}."
        + (
            ""
            if not seen
            else f" The prior was trained on {seen:,} images, an image counted each time that it was seen."
        ),
        f'\n```python\nimport ldm\n\nmodel = ldm.load("{name}")\npictures = model.sample({_example(model)})\n```\n',
    ]
    if own:
        lines.append("| number | value | n | split | how it was drawn |\n| --- | --- | --- | --- | --- |")
        lines += [_row(each) for each in own]
        lines.append("\nEach is of these weights; `records.jsonl` says what it may be compared with.")
    else:
        lines.append("No number of these weights was measured.")
    return "\n".join(lines) + "\n"


def _example(model: LatentModel) -> str:
    if "caption" in model.condition.needs:
        return 'captions=["..."], n=4'
    return "labels=[0], n=4" if "label" in model.condition.needs else "n=4"


def _row(each: Record) -> str:
    error = "" if each.standard_error is None else f" ± {each.standard_error:.2g}"
    drawn = ", ".join(f"{key}={value}" for key, value in (each.drawn or {}).items())
    return f"| `{each.metric}` | {each.value:.4g}{error} | {each.n or ''} | {each.split or ''} | {drawn} |"
