# %% [markdown]
# # 1. Explore the data
#
# The examples of `digits` as training sees them: 8 x 8 grey pixels with a label, in three splits.
# Open another data set of `project/data/` by its name.

# %%
import matplotlib.pyplot as plt
import numpy as np

from lockstep.notebook import open_data

data = open_data("digits")
train = data.splits["train"]
for name, split in data.splits.items():
    values = f"{split.inputs.dtype}, {split.inputs.min()} to {split.inputs.max()}"
    print(f"{name:<10}  {len(split):>5,} examples of {split.inputs.shape[1:]}, {values}")
print(f"sha256      {data.digest}")

# %% [markdown]
# ## What the examples look like
#
# The first eight of each label in the training split.

# %%
figure, axes = plt.subplots(8, 10, figsize=(8, 6.6), layout="constrained")
for label, column in enumerate(axes.T):
    column[0].set_title(data.labels[label])
    for axis, row in zip(column, np.flatnonzero(train.target == label), strict=False):
        axis.imshow(train.inputs[row], cmap="gray_r")
        axis.axis("off")

# %% [markdown]
# ## Are the labels balanced?

# %%
figure, axis = plt.subplots(figsize=(8, 2.8), layout="constrained")
for place, (name, split) in enumerate(data.splits.items()):
    shares = np.bincount(split.target, minlength=len(data.labels)) / len(split)
    axis.bar(np.arange(len(shares)) + 0.27 * (place - 1), shares, 0.25, label=name)
axis.set_xticks(range(len(data.labels)), data.labels)
axis.set(xlabel="label", ylabel="share of the split")
axis.yaxis.set_major_formatter("{x:.0%}")
axis.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
axis.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# ## What does a label look like on average?
#
# The mean of its pictures. If two means look alike, expect mistakes between these labels.

# %%
figure, axes = plt.subplots(1, 10, figsize=(8, 1.1), layout="constrained")
for label, axis in enumerate(axes):
    axis.imshow(train.inputs[train.target == label].mean(axis=0), cmap="gray_r")
    axis.set_title(data.labels[label])
    axis.axis("off")
