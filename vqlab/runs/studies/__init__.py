"""Studies: several arms on the same data, their runs, and the page that compares them."""

from vqlab.runs.studies.collapse import CollapseStudy
from vqlab.runs.studies.coupling import CouplingStudy
from vqlab.runs.studies.kinds import StudyKind
from vqlab.runs.studies.rate_distortion import RateDistortionStudy

KINDS: dict[str, type[StudyKind]] = {
    "rate_distortion": RateDistortionStudy,
    "collapse": CollapseStudy,
    "coupling": CouplingStudy,
}
