"""Small runs of both methods, for several processes: python -m vqlab.main --config=THIS:KIND."""

from tests import tiny


def get_config(kind):
    """`mgvq` or `semanticist`: 8 steps of 16 images; a checkpoint and an evaluation every 4."""
    if kind == "mgvq":
        config = tiny.config(num_steps=8, batch_size=16).unlock()
    else:
        config = tiny.semanticist_config(num_steps=8, batch_size=16).unlock()
        # What is sampled is measured elsewhere; here it is the counts that matter.
        config.evals = {"explained_variance": config.evals.explained_variance}
        config.checkpoint.best_metric = "explained_variance/loss"
        config.checkpoint.best_mode = "min"
    config.mesh.update(data=-1, fsdp=2)
    config.intervals.update(log=1, evaluate=4, checkpoint=4)
    config.checkpoint.keep = 10
    for node in config.evals.values():
        node.update(batch_size=8, limit=13, tile_size=node.image_size)
    return config.lock()
