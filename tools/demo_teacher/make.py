"""Makes everything, stage by stage: a finished stage is skipped, a broken one goes on from its checkpoint."""
import argparse
from pathlib import Path

from . import autoencoder, evaluator, export, latent_features, latents, teacher, training_features

STAGES = (evaluator.train, training_features.train, autoencoder.train, latents.make, latent_features.train,
          teacher.train)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--models", type=Path, default=export.MODELS, help="folder to write (default: %(default)s)")
    models = arguments.parse_args().models
    for stage in STAGES:
        print(f"== {stage.__module__}.{stage.__name__}", flush=True)
        stage()
    print(f"== export to {models}", flush=True)
    export.write(models)


if __name__ == "__main__":
    main()
