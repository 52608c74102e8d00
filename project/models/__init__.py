"""The models, a folder each: `invoke new-model NAME` writes one."""
