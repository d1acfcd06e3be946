"""What networks are trained for, by the names that configs give."""

from vqlab.training.objectives.code_prediction import CodeObjective
from vqlab.training.objectives.concept_diffusion import ConceptObjective
from vqlab.training.objectives.concept_prediction import ConceptPredictionObjective
from vqlab.training.objectives.index_prediction import IndexObjective
from vqlab.training.objectives.reconstruction import DISCRIMINATOR, TOKENIZER, TokenizerObjective

OBJECTIVES = {
    "code_prediction": CodeObjective,
    "reconstruction": TokenizerObjective,
    "concept_diffusion": ConceptObjective,
    "concept_prediction": ConceptPredictionObjective,
    "index_prediction": IndexObjective,
}

__all__ = [
    "DISCRIMINATOR",
    "OBJECTIVES",
    "TOKENIZER",
    "CodeObjective",
    "ConceptObjective",
    "TokenizerObjective",
]
