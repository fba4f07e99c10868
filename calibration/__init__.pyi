from .activation_ranges import calibrate as calibrate
from .bn_statistics import has_batch_norm as has_batch_norm, statistics_distance as statistics_distance
from .data_mixing import mixed_copies as mixed_copies
from .dataset import CalibrationSet as CalibrationSet
from .disagreement import Disagreement as Disagreement, against as against
from .objectives import (
    Batch as Batch,
    BatchNormStatistics as BatchNormStatistics,
    ImageMoments as ImageMoments,
    Label as Label,
    Observation as Observation,
    SparseVariation as SparseVariation,
    Term as Term,
    TotalVariation as TotalVariation,
)
from .quality import Quality as Quality, assess as assess, with_quality as with_quality
from .synthesis import gaussian_noise as gaussian_noise, synthesize as synthesize
from .synthesis_config import (
    SYNTHESIS_METHODS as SYNTHESIS_METHODS,
    SynthesisConfig as SynthesisConfig,
    synthesis_preset as synthesis_preset,
)
from .universal import fit_to_network as fit_to_network, universal_set as universal_set
