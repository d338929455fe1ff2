"""Faults of ldm/interop."""

from tests.mutants.fault import of

_BOTH = ("tests/interop/test_diffusers.py", "tests/interop/test_checkpoint.py")

FAULTS = [
    *of(
        "ldm/interop/diffusers.py",
        _BOTH,
        ("torch.tensor(mean), torch.tensor(std) / scale", "torch.tensor(mean), torch.tensor(std) * scale"),
        ("torch.tensor(mean), torch.tensor(std) / scale", "torch.tensor(mean) * 0, torch.tensor(std) / scale"),
        (
            "rows = torch.cat([theirs[part] for part in parts])",
            "rows = torch.cat([theirs[part] for part in reversed(parts)])",
        ),
        ("own[name].copy_(rows.view(own[name].shape))", "pass"),
        ('".query.": ".to_q.", ".key.": ".to_k."', '".query.": ".to_k.", ".key.": ".to_q."'),
        ("table_of_scheduler(json.loads(scheduler", "ScaledLinear() or (json.loads(scheduler"),
        ("if surplus := sorted(theirs.keys() - wanted):", "if surplus := []:"),
        ("for candidate in (folder, folder / part):", "for candidate in (folder,):"),
    ),
    *of(
        "ldm/interop/diffusers_config.py",
        _BOTH,
        ('"blocks": layers + 1,', '"blocks": layers,'),
        (
            '"norm": _group_node(theirs["norm_num_groups"], 1e-6)',
            '"norm": _group_node(theirs["norm_num_groups"], 1e-2)',
        ),
        ('theirs.get("resnet_time_scale_shift", "default") == "scale_shift"', "False"),
        ("table.knots[1:].tolist()", "table.knots[:-1].tolist()"),
        ('theirs["beta_start"], theirs["beta_end"]', 'theirs["beta_start"], 0.5 * theirs["beta_end"]'),
        ('"scaling_factor": 1 / std[0]', '"scaling_factor": std[0]'),
        ('"latents_mean": mean, "latents_std": std}', '"latents_mean": std, "latents_std": std}'),
        ("[width // widths[0] for width in widths]", "[width // widths[-1] or 1 for width in widths]"),
        ("heads[-1] = unet.middle[0].transformer.heads", "heads[-1] = 1"),
        ('"act_fn": "silu",\n    "addition', '"addition'),
        ("if encoder.patch > 1:", "if encoder.patch > 9:"),
    ),
    *of(
        "ldm/interop/diffusers_names.py",
        _BOTH,
        ('(".to_q.", ".to_k.", ".to_v.")', '(".to_k.", ".to_q.", ".to_v.")'),
        ("level, count = level + 1, 0", "level, count = level + 1, count * 0"),
    ),
    *of(
        "ldm/interop/pretrained.py",
        "tests/interop/test_checkpoint.py",
        ("autoencoder.load_state_dict(theirs.state_dict())", "pass"),
        ('load_weights(autoencoder, self.folder / "model.safetensors", prefix="autoencoder.")', "pass"),
        ('node | {"image_shape": list(image_shape)}', "node"),
        ('for candidate in (folder, folder / "model"):', "for candidate in (folder,):"),
        (
            'autoencoder_node(json.loads((self.folder / "config.json").read_text(encoding="utf-8")), image_shape)',
            'autoencoder_node(json.loads((self.folder / "config.json").read_text(encoding="utf-8")), (3, 64, 64))',
        ),
    ),
]
