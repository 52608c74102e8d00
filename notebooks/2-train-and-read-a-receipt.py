# %% [markdown]
# # 2. Train and read a receipt
#
# `train` does what `invoke train` does, in this kernel. Kill the kernel, run the cell again, and training resumes and
# ends with the same bits. The run is an ordinary one, in the folder `runs`.

# %%
import matplotlib.pyplot as plt

from lockstep.notebook import train
from lockstep.records import trace

run = train("digits", "training.epochs=10", seed=1)

# %% [markdown]
# ## The receipt
#
# What decided the bits (the identity), the results (the digests), what the run promises, and where it was made.
# `notebook` is true, because the identity contains the source files but not the cells: before you rely on a result,
# check it against the source alone with `invoke reproduce`.

# %%
receipt = run.finished_receipt()
results, environment = receipt["results"], receipt["environment"]
print(f"run            {run.name}")
print(f"identity       {receipt['identity']['digest']}")
print(f"weights        {results['weights_sha256']}")
print(f"test accuracy  {results['metrics']['test']['accuracy']:.4f}")
print(f"promise        {receipt['level']['promise']}")
print(f"python, torch  {environment['python']}, {environment['torch']}")
print(f"notebook       {environment['notebook']}")

# %% [markdown]
# ## How it went
#
# The trace has the loss of each step, `metrics.jsonl` a row for each epoch.

# %%
steps, epochs = trace.read(run.folder / "trace.bin"), run.metrics()
ends = [row["step"] for row in epochs]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
left.plot(range(1, len(steps) + 1), steps["loss"], lw=0.6, c="#9db8d9", label="each step")
left.plot(ends, [row["train"]["loss"] for row in epochs], c="#1f5fa8", label="training")
left.plot(ends, [row["validation"]["loss"] for row in epochs], c="#d9731a", label="validation")
left.set(xlabel="step", ylabel="loss", yscale="log")
left.legend(frameon=False)
accuracies = [row["validation"]["accuracy"] for row in epochs]
right.plot(range(1, len(epochs) + 1), accuracies, c="#d9731a", marker=".")
right.set(xlabel="epoch", ylabel="accuracy on the validation split")
for axis in (left, right):
    axis.spines[["top", "right"]].set_visible(False)
