"""The smallest real TiTok of each stage, and its pixel tokenizer, as nodes and configs."""

from configs import titok_s128


def config(stage, **changes):
    """The debug config of a stage, smaller still: one block, four tokens of 16-pixel images."""
    config = titok_s128.get_config(f"{stage},debug").unlock()
    for part in (config.model.encoder, config.model.decoder):
        part.update(image_size=16, patch_size=2, depth=1, width=16, num_tokens=4, dtype="float32")
    if stage != "pixels":
        part = config.model.pixel_tokenizer
        part = part.network if stage == "stage1" else part
        part.update(widths=(32, 32), latent_channels=4, dtype="float32")
    config.num_steps, config.image_size = 2, 16
    config.intervals.update(log=1, evaluate=0, checkpoint=2)
    for node in config.evals.values():
        node.update(image_size=16, limit=8)
    if "discriminator" in config:
        config.discriminator.num_layers = 1
    config.update_from_flattened_dict(changes)
    return config.lock()


def node(stage, **changes):
    """The model node alone; `changes` are of parts, as encoder={"depth": 2}."""
    node = config(stage).model.to_dict()
    return node | {name: node[name] | part for name, part in changes.items()}
