"""Makes everything, stage by stage: a finished stage is skipped, a broken one goes on from its checkpoint."""
from . import autoencoder, evaluator, export, latent_features, latents, teacher, training_features

STAGES = (evaluator.train, training_features.train, autoencoder.train, latents.make, latent_features.train,
          teacher.train, export.write)


def main():
    for stage in STAGES:
        print(f"== {stage.__module__}.{stage.__name__}", flush=True)
        stage()


if __name__ == "__main__":
    main()
