"""Models to learn from: `invoke new-model NAME --like EXAMPLE` copies one."""

from lockstep.model import features_of, loader_of

load = loader_of(__name__)
load_features = features_of(load)
