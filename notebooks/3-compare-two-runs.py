# %% [markdown]
# # 3. Compare two runs
#
# The run of notebook 2, and the same with clipped gradients. Their traces show the first step at which they
# differ, and the recorded settings, source, data and packages show why. `invoke compare A B` prints the same.

# %%
import matplotlib.pyplot as plt
import numpy as np

from lockstep.notebook import train
from lockstep.records import compare, trace

a = train("digits", "training.epochs=10", seed=1)
b = train("digits", "training.epochs=10", "training.clip=2", seed=1)
found = compare.compare(a, b)

print(found.verdict)
for name, text in compare.details(found):
    print(f"{name}: {text}")
for row in found.differences:
    print(f"{row.part} {row.name}: A {row.a}, B {row.b}")

# %% [markdown]
# ## Where they differ
#
# Up to this step the losses are equal to the last bit. From the first clipped gradient on they differ.

# %%
losses = [trace.read(run.folder / "trace.bin")["loss"] for run in (a, b)]
steps = np.arange(1, len(losses[0]) + 1)
figure, (above, below) = plt.subplots(
    2, figsize=(9, 4.6), sharex=True, layout="constrained", height_ratios=(3, 2)
)
above.plot(steps, losses[0], lw=2.5, c="#9db8d9", label="A")
above.plot(steps, losses[1], lw=1, c="#a23c10", label="B")
above.set(ylabel="loss", yscale="log")
below.plot(steps, np.abs(losses[0] - losses[1]), lw=1, c="black")
below.set(xlabel="step", ylabel="|A - B|")
for axis in (above, below):
    axis.axvline(found.step, c="#888", ls=":", label=f"part at step {found.step}")
    axis.spines[["top", "right"]].set_visible(False)
figure.legend(*above.get_legend_handles_labels(), frameon=False, loc="outside upper right", ncols=3)
plt.show()
