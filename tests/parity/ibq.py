"""IBQ beside SEED-Voken's, which knows no modes."""

from tests.parity.bottleneck import Case, Options
from tests.parity.report import Report
from vqlab.nn.ibq import IBQ


def check_ibq(report: Report, config: dict) -> None:
    """All cases of a quantizer_ibq file."""
    for case in config["cases"]:
        _check_case(report, config, case)


def _check_case(report: Report, config: dict, case: dict) -> None:
    name, options = case["name"], Options(case["kwargs"])
    has_entropy = options.take("use_entropy_loss", False)
    weight = case["entropy_weight"] if has_entropy else 0.0
    module = IBQ(
        codebook_size=options.take("n_e"),
        latent_channels=options.take("e_dim"),
        beta=options.take("beta", 0.25),
        entropy_weight=1.0,
        entropy_temperature=options.take("entropy_temperature", 0.01),
        sample_weight=options.take("sample_minimization_weight", 1.0),
        batch_weight=options.take("batch_maximization_weight", 1.0),
        entropy_offset=1e-5,
    )
    options.take("cosine_similarity")  # which the released class never reads
    options.finish()

    def quantization(losses):
        return sum(losses[key].sum() for key in ("soft", "commit", "vq"))

    def loss(losses):
        return quantization(losses) + weight * losses["entropy"].sum()

    case = Case(report, config, name, module, is_image=True, loss=loss)
    case.variables["params"]["codebook"] = case.weight("embedding.weight")[None]
    x, cotangent = (case.to_own(case.input(key)[0]) for key in ("x", "R"))
    ((token_entropy, batch_entropy),) = case.methods(x, "entropies")
    for mode in ("train", "eval"):
        value, quantized, _, codes, grads = case.run(mode == "train", x, cotangent)
        case.check_latents(f"{mode}/quantized", quantized.latents)
        case.check_indices(f"{mode}/indices", quantized.indices)
        case.check_latents(f"{mode}/codebook_entry", codes)
        case.check_numbers(f"{mode}/quant_loss", quantization(quantized.losses))
        if has_entropy:
            case.check_numbers(f"{mode}/entropy_loss", quantized.losses["entropy"][0])
            case.check_numbers(f"{mode}/sample_entropy", token_entropy[0])
            case.check_numbers(f"{mode}/avg_entropy", batch_entropy[0])
        case.check_numbers(f"{mode}/objective", value)
        names = {"embedding.weight": lambda tree: tree["codebook"][0]}
        case.check_gradients(f"{mode}/", grads, names)
