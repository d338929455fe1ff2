"""Faults of ldm/interop."""

from tests.mutants.fault import of

_BOTH = ("tests/interop/test_diffusers.py", "tests/interop/test_checkpoint.py")

FAULTS = [
    *of(
        "ldm/interop/diffusers_autoencoder.py",
        ("tests/interop/test_diffusers.py", "tests/interop/test_checkpoint.py"),
        ('"blocks": layers + 1,', '"blocks": layers,'),
        ('"norm": group_node(theirs["norm_num_groups"], 1e-6)', '"norm": group_node(theirs["norm_num_groups"], 1e-2)'),
        ('"scaling_factor": 0.18215', '"scaling_factor": 1.0'),
        ("(1.0 if scale is None else scale)", "(0.18215 if scale is None else scale)"),
        ("torch.tensor(std) / (1.0", "torch.tensor(std) * (1.0"),
        ("[shift or 0.0] * channels", "[0.0] * channels"),
        ('"shift_factor": mean[0] or None,', '"shift_factor": None,'),
        ('"sample_size": height,', '"sample_size": 64,'),
        ('"scaling_factor": 1 / std[0]', '"scaling_factor": std[0]'),
        ('"latents_mean": mean, "latents_std": std}', '"latents_mean": std, "latents_std": std}'),
        ("if encoder.patch > 1:", "if encoder.patch > 9:"),
    ),
    *of(
        "ldm/interop/diffusers_unet.py",
        ("tests/interop/test_diffusers.py", "tests/interop/test_checkpoint.py"),
        ('theirs["resnet_time_scale_shift"] == "scale_shift"', "False"),
        ("torch.arange(1, table.steps + 1,", "torch.arange(0, table.steps,"),
        ('group_node(theirs["norm_num_groups"], theirs["norm_eps"])', 'group_node(theirs["norm_num_groups"], 1e-5)'),
        ('"scale_shift" if first[0].block.scale_shift else "default"', '"default"'),
        ('"dropout": theirs["dropout"],', '"dropout": 0.0,'),
        ('"norm_eps": unet.norm.eps,', '"norm_eps": 1e-5,'),
        ("heads[-1] = unet.middle[0].transformer.heads", "heads[-1] = 1"),
        ('"act_fn": "silu",\n    "addition', '"addition'),
    ),
    *of(
        "ldm/interop/diffusers.py",
        _BOTH,
        ("autoencoder.set_statistics(*latent_statistics(theirs))", "pass"),
        ("if missing := sorted(wanted - theirs.keys()):", "if missing := []:"),
        ("for variant in (None, *_HALF):", "for variant in (*_HALF, None):"),
        ("for file in files for name", "for file in files[:1] for name"),
        ("return autoencoder.eval()", "return autoencoder.train()"),
        (
            "rows = torch.cat([theirs[part] for part in parts])",
            "rows = torch.cat([theirs[part] for part in reversed(parts)])",
        ),
        ("own[name].copy_(rows.view(own[name].shape))", "pass"),
        ('".query.": ".to_q.", ".key.": ".to_k."', '".query.": ".to_k.", ".key.": ".to_q."'),
        ("if surplus := sorted(theirs.keys() - wanted):", "if surplus := []:"),
        ("for candidate in (folder, folder / part):", "for candidate in (folder,):"),
    ),
    *of(
        "ldm/interop/diffusers.py",
        "tests/interop/test_scheduler.py::test_the_network_is_told_the_steps_of_the_rescaled_table",
        ("ScaledLinear() if scheduler is None else scheduler.schedule", "ScaledLinear()"),
    ),
    *of(
        "ldm/interop/diffusers_config.py",
        _BOTH,
        ('same = {"swish": "silu"}', "same = {}"),
        ("[width // widths[0] for width in widths]", "[width // widths[-1] or 1 for width in widths]"),
    ),
    *of(
        "ldm/interop/diffusers_names.py",
        _BOTH,
        ('(".to_q.", ".to_k.", ".to_v.")', '(".to_k.", ".to_q.", ".to_v.")'),
        ("level, count = level + 1, 0", "level, count = level + 1, count"),
    ),
    *of(
        "ldm/interop/first_stage.py",
        "tests/interop/test_checkpoint.py",
        ("autoencoder.load_state_dict(theirs.state_dict())", "pass"),
        ('load_weights(autoencoder, self.folder / "model.safetensors", prefix="autoencoder.")', "pass"),
        ('for candidate in (folder, folder / "model"):', "for candidate in (folder,):"),
        (
            'autoencoder_node(json.loads((self.folder / "config.json").read_text(encoding="utf-8")), image_shape)',
            'autoencoder_node(json.loads((self.folder / "config.json").read_text(encoding="utf-8")), (3, 64, 64))',
        ),
    ),
    *of(
        "ldm/interop/diffusers_scheduler.py",
        "tests/interop/test_scheduler.py",
        ("ZeroTerminalSNR(table, 1 / table.steps) if", "ZeroTerminalSNR(table, 1e-3) if"),
        ('if training["rescale_betas_zero_snr"] else table', "if False else table"),
        ('"v_prediction": V,', '"v_prediction": Noise,'),
        (".clamp(max=0.999)", ""),
        ("parameterization.check(schedule)", "pass"),
        (
            'ends = training["beta_start"], training["beta_end"]',
            'ends = training["beta_start"], training["beta_start"]',
        ),
        ("torch.linspace(-6, 6, steps", "torch.linspace(-5, 6, steps"),
    ),
]
