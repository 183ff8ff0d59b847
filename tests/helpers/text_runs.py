"""Runs on text of seconds, for the tests: words and a recipe."""

from grafs_timm.config.recipe import parse_recipe

TALE = "one day a little girl named lily found a red ball in the park and she was very happy to play with it"

WORDS = TALE.split()


def recipe(text, **changes):
    return parse_recipe(
        {
            "model": "gpt_mini",
            "model_kwargs": {"depth": 1, "num_heads": 2, "embed_dim": 32, "dropout": 0.1},
            "data": {"name": str(text), "text": {"context": 16}},
            "search": {
                "epochs": 20, "steps_per_epoch": 1, "log_epochs": 5, "warm_start": 2, "shrink_start": 4, "batch_size": 8,
                "usual": "gelu", "weights": {"opt": "adamw", "lr": 1e-3, "betas": [0.9, 0.99], "clip_grad": 1.0},
            },
            "evaluate": {
                "epochs": 3, "steps_per_epoch": 6, "batch_size": 8,
                "weights": {"opt": "adamw", "lr": 3e-3, "betas": [0.9, 0.99], "sched": "cosine", "min_lr": 1e-4,
                            "clip_grad": 1.0},
            },
            "select": {"epochs": 1, "seeds": 1, "keep": 2, "final_seeds": 2, "final_epochs": 1},
        } | changes,
        "test",
    )  # fmt: skip
