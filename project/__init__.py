"""The team's models and data: a folder each in ``models``, a file each in ``data``."""

from lockstep.model import features_of, loader_of

load = loader_of(__name__)
load_features = features_of(load)
