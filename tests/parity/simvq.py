"""SimVQ beside vector-quantize-pytorch's, which knows no modes."""

from tests.parity.bottleneck import Case, Options
from tests.parity.report import Report
from vqlab.nn.simvq import SimVQ


def check_simvq(report: Report, config: dict) -> None:
    """All cases of a quantizer_simvq file."""
    for case in config["cases"]:
        _check_case(report, config, case["name"], Options(case["kwargs"]))


def _check_case(report: Report, config: dict, name: str, options: Options) -> None:
    weight = options.take("commitment_weight", 1.0)
    module = SimVQ(
        codebook_size=options.take("codebook_size"),
        latent_channels=options.take("dim"),
        codebook_dim=options.take("frozen_codebook_dim") or 0,
        beta=weight * options.take("input_to_quantize_commit_loss_weight", 0.25),
        codebook_weight=weight,
        rotation_trick=options.take("rotation_trick", True),
    )
    is_image = options.take("channel_first", False)
    options.finish()
    case = Case(report, config, name, module, is_image=is_image)
    case.variables["params"]["transform"] = case.weight("code_transform.weight").T
    case.variables["constants"] = {"frozen_codebook": case.weight("frozen_codebook")}
    x, cotangent = (case.to_own(case.input(key)[0]) for key in ("x", "R"))
    codebook = module.apply(case.variables, method="codewords")
    for mode in ("train", "eval"):
        value, quantized, _, _, grads = case.run(mode == "train", x, cotangent)
        case.check_latents(f"{mode}/quantized", quantized.latents)
        case.check_indices(f"{mode}/indices", quantized.indices)
        case.check_numbers(
            f"{mode}/loss", sum(values.sum() for values in quantized.losses.values())
        )
        case.check_numbers(f"{mode}/codebook", codebook)
        case.check_numbers(f"{mode}/objective", value)
        names = {"code_transform.weight": lambda tree: tree["transform"].T}
        case.check_gradients(f"{mode}/", grads, names)
