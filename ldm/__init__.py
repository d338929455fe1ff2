"""ldm: a laboratory for latent generative models.

    import ldm

    model = ldm.load("runs/first")
    model.sample(captions=["a large blue star"], n=4, seed=0)

Nothing heavy is imported before `load` or `Model` is asked for.
"""


def __getattr__(name: str):
    if name in ("load", "Model"):
        from ldm import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
